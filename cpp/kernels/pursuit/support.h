// The latents that pursuit has chosen for one row, and their codes.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/common/simd.h"

namespace sparse_sae {

inline constexpr int kRefitSweeps = 200;

// Latents are in the order in which they joined; w (M, D) has rows of norm 1; k is the most that may join.

template <class T>
struct Support {
    const T *x, *w;
    int64_t D, k;
    std::vector<int32_t> latents;
    std::vector<const T*> atoms;
    std::vector<T> z, target, gram;
    T scale = 0;

    Support(const T* row, const T* dictionary, int64_t width, int64_t most)
        : x(row), w(dictionary), D(width), k(most), gram(static_cast<std::size_t>(most * most)) {}

    bool has(int64_t j) const { return std::find(latents.begin(), latents.end(), j) != latents.end(); }

    void join(int64_t j) {
        const int64_t s = static_cast<int64_t>(latents.size());
        latents.push_back(static_cast<int32_t>(j));
        atoms.push_back(w + j * D);
        z.push_back(0);
        target.push_back(dot(x, atoms[s], D));
        scale = std::max(scale, std::abs(target[s]));
        dot_many(&gram[s * k], atoms[s], s + 1, D, [&](int64_t i) { return atoms[i]; });
        for (int64_t i = 0; i < s; ++i) gram[i * k + s] = gram[s * k + i];
        refit();
    }

    // min |x - sum z w|^2 over z >= 0: coordinate descent from the codes before. It needs no inverse, so latents that
    // are alike do no harm.
    void refit() {
        const T tolerance = (sizeof(T) == 4 ? T(1e-6) : T(1e-12)) * scale;
        const int64_t s = static_cast<int64_t>(z.size());
        for (int sweep = 0; sweep < kRefitSweeps; ++sweep) {
            T moved = 0;
            for (int64_t i = s - 1; i >= 0; --i) {
                T fitted = 0;
                for (int64_t j = 0; j < s; ++j) fitted += gram[i * k + j] * z[j];
                const T next = std::max(T(0), z[i] + (target[i] - fitted) / gram[i * k + i]);
                moved = std::max(moved, std::abs(next - z[i]));
                z[i] = next;
            }
            if (moved <= tolerance) return;
        }
    }

    // y - sum of the codes times rows(i).
    template <class Row>
    void subtract(T* y, int64_t n, std::vector<T>& minus, std::vector<const T*>& rows, Row row) const {
        minus.clear(), rows.clear();
        for (std::size_t i = 0; i < z.size(); ++i) minus.push_back(-z[i]), rows.push_back(row(i));
        add_rows(y, minus.data(), rows.data(), static_cast<int64_t>(z.size()), n);
    }
};

}  // namespace sparse_sae
