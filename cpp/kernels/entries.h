// One code entry, its order, and the gathering of rows of entries into CSR.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/parallel.h"
#include "kernels/tile.h"

namespace sparse_sae {

template <class T>
struct Entry {
    T value;
    int32_t latent;
};

// Larger first; equal values in the order of the latents. NaN must have been removed.
template <class T>
inline bool ranks_before(const Entry<T>& a, const Entry<T>& b) {
    return a.value > b.value || (a.value == b.value && a.latent < b.latent);
}

// Canonical pre-activations of the named latents for one row.
template <class T>
void score(Entry<T>* entries, int64_t count, const T* x, const Dictionary<T>& dict) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const T* w[4];
        T out[4];
        for (int b = 0; b < 4; ++b) w[b] = dict.row(entries[i + b].latent);
        dot_rows<T, 4>(out, x, w, dict.D);
        for (int b = 0; b < 4; ++b) entries[i + b].value = out[b] + dict.bias(entries[i + b].latent);
    }
    for (; i < count; ++i) entries[i].value = dot(x, dict.row(entries[i].latent), dict.D) + dict.bias(entries[i].latent);
}

// Rows of entries, each sorted by latent, into CSR. row(n) -> pair of pointers.
template <class T, class Row>
Codes<T> gather_codes(int64_t N, int num_threads, Row row) {
    Codes<T> codes;
    codes.indptr.resize(static_cast<std::size_t>(N) + 1);
    int64_t total = 0;
    for (int64_t n = 0; n < N; ++n) {
        codes.indptr[n] = static_cast<int32_t>(total);
        const auto [begin, end] = row(n);
        total += end - begin;
        if (total > INT32_MAX) throw std::length_error("codes: more than 2**31 - 1 entries; encode fewer rows at once");
    }
    codes.indptr[N] = static_cast<int32_t>(total);
    codes.indices.resize(static_cast<std::size_t>(total));
    codes.values.resize(static_cast<std::size_t>(total));
    constexpr int64_t kBlock = 512;
    parallel_for((N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
        for (int64_t n = block * kBlock; n < std::min(N, (block + 1) * kBlock); ++n) {
            int64_t at = codes.indptr[n];
            const auto [begin, end] = row(n);
            for (auto e = begin; e != end; ++e, ++at) {
                codes.indices[at] = e->latent;
                codes.values[at] = e->value;
            }
        }
    });
    return codes;
}

}  // namespace sparse_sae
