// The few latents that may be active in one row, and their codes: min 1/2 |x - sum z w|^2 + sum price z over z >= 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/common/simd.h"

namespace sparse_sae {

// Latents are in the order in which they joined. Their inner products are the only part of the dictionary that
// descending reads, so a sweep over K latents costs K^2 at most, and nothing for those that stay at zero.
template <class T>
struct Active {
    const T *x, *w;
    int64_t D;
    std::vector<int32_t> latents;
    std::vector<const T*> atoms;
    std::vector<T> z, price, target, gram, slope;
    int64_t room = 0;  // elements of a row of gram

    Active(const T* row, const T* dictionary, int64_t width) : x(row), w(dictionary), D(width) {}

    int64_t size() const { return static_cast<int64_t>(latents.size()); }

    // products: the inner products of latent j with all latents, or null to make those that are needed. Both are
    // canonical, so the bits are the same.
    void join(int64_t j, T its_price, const T* products) {
        const int64_t s = size();
        if (s == room) {
            const int64_t wider = std::max<int64_t>(16, 2 * room);
            std::vector<T> grown(static_cast<std::size_t>(wider * wider));
            for (int64_t i = 0; i < s; ++i) std::copy_n(&gram[i * room], s, &grown[i * wider]);
            gram.swap(grown), room = wider;
        }
        latents.push_back(static_cast<int32_t>(j));
        atoms.push_back(w + j * D);
        z.push_back(0);
        price.push_back(its_price);
        target.push_back(dot(x, atoms[s], D));
        T* row = &gram[s * room];
        if (products)
            for (int64_t i = 0; i <= s; ++i) row[i] = products[latents[i]];
        else
            dot_many(row, atoms[s], s + 1, D, [&](int64_t i) { return atoms[i]; });
        for (int64_t i = 0; i < s; ++i) gram[i * room + s] = row[i];
    }

    // Coordinate descent from the codes as they are, until none moves by more than tolerance; false where the sweeps
    // did not suffice. It needs no inverse, so latents that are alike do no harm.
    bool descend(T tolerance, int sweeps) {
        const int64_t s = size();
        slope = target;
        const auto move = [&](int64_t i, T by) {
            const T minus = -by;
            const T* row = &gram[i * room];
            add_group<T, 1>(slope.data(), &minus, &row, s);
        };
        for (int64_t i = 0; i < s; ++i) {
            slope[i] -= price[i];
            if (z[i] != 0) move(i, z[i]);
        }
        for (int sweep = 0; sweep < sweeps; ++sweep) {
            T moved = 0;
            for (int64_t i = 0; i < s; ++i) {
                const T next = std::max(T(0), z[i] + slope[i] / gram[i * room + i]), by = next - z[i];
                if (by == 0) continue;
                z[i] = next;
                move(i, by);
                moved = std::max(moved, std::abs(by));
            }
            if (moved <= tolerance) return true;
        }
        return false;
    }

    // Forgets latents at zero that pay the full price: should they be wanted again, they join again.
    void drop(T full_price) {
        int64_t kept = 0;
        std::vector<int64_t> from;
        for (int64_t i = 0; i < size(); ++i)
            if (z[i] != 0 || price[i] < full_price) from.push_back(i);
        if (static_cast<int64_t>(from.size()) == size()) return;
        for (const int64_t i : from) {
            latents[kept] = latents[i], atoms[kept] = atoms[i], z[kept] = z[i];
            price[kept] = price[i], target[kept] = target[i];
            for (std::size_t b = 0; b < from.size(); ++b)
                gram[kept * room + static_cast<int64_t>(b)] = gram[i * room + from[b]];
            ++kept;
        }
        latents.resize(kept), atoms.resize(kept), z.resize(kept), price.resize(kept), target.resize(kept);
    }

    // y - sum of the codes times rows(i), for n elements.
    template <class Row>
    void subtract(T* y, int64_t n, Row row) const {
        std::vector<T> minus(z.size());
        std::vector<const T*> rows(z.size());
        for (std::size_t i = 0; i < z.size(); ++i) minus[i] = -z[i], rows[i] = row(i);
        add_rows(y, minus.data(), rows.data(), size(), n);
    }

    void residual_into(T* out) const {
        std::copy_n(x, D, out);
        subtract(out, D, [&](std::size_t i) { return atoms[i]; });
    }

    // Latents with codes above the least, in order.
    std::vector<std::pair<int32_t, T>> codes(T least) const {
        std::vector<std::pair<int32_t, T>> found;
        for (std::size_t i = 0; i < z.size(); ++i)
            if (z[i] > least) found.emplace_back(latents[i], z[i]);
        std::sort(found.begin(), found.end());
        return found;
    }
};

}  // namespace sparse_sae
