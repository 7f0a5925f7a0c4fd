// What pursuits share: inner products of rows with all latents, the latents' with each other, and how far off the first
// may be when they are made of the second.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/simd.h"

namespace sparse_sae {

// Rows that share one pass over the dictionary. They stay in the cache while latents stream by.
inline constexpr int64_t kTile = 16;

// w w^T is kept where it has at most this many entries.
inline constexpr int64_t kGramEntries = int64_t{1} << 26;

// use(r, j, values, count): the dot products of row r of x (R, D) with latents j, j + 1, ..., for all R rows.
template <class T, class Use>
void correlate(const T* x, int64_t R, const T* w, int64_t M, int64_t D, Use use) {
    constexpr int B = kDotRows<T>;
    T out[B];
    const T* latents[B];
    int64_t j = 0;
    for (; j + B <= M; j += B) {
        for (int b = 0; b < B; ++b) latents[b] = w + (j + b) * D;
        for (int64_t r = 0; r < R; ++r) {
            dot_rows<T, B>(out, x + r * D, latents, D);
            use(r, j, out, B);
        }
    }
    for (; j < M; ++j)
        for (int64_t r = 0; r < R; ++r) {
            out[0] = dot(x + r * D, w + j * D, D);
            use(r, j, out, 1);
        }
}

// out (R, M) = x (R, D) . w (M, D)^T.
template <class T>
void correlate_into(T* out, const T* x, int64_t R, const T* w, int64_t M, int64_t D) {
    correlate(x, R, w, M, D,
              [&](int64_t r, int64_t j, const T* values, int count) { std::copy_n(values, count, out + r * M + j); });
}

// w w^T, of canonical dot products: the same bits as dot(w + i * D, w + j * D, D), in either order.
template <class T>
std::vector<T> gram_matrix(const T* w, int64_t M, int64_t D, int num_threads) {
    std::vector<T> out(static_cast<std::size_t>(M * M));
    parallel_for((M + kTile - 1) / kTile, num_threads, [&](int64_t tile) {
        const int64_t first = tile * kTile, R = std::min(kTile, M - first);
        correlate(w + first * D, R, w, first + R, D, [&](int64_t r, int64_t j, const T* values, int count) {
            for (int i = 0; i < count; ++i) out[(first + r) * M + j + i] = out[(j + i) * M + first + r] = values[i];
        });
    });
    return out;
}

template <class T>
T largest(const T* c, int64_t M) {
    constexpr int L = kLanes<T>;
    T best = -std::numeric_limits<T>::infinity();
    vec<T> most = best - vec<T>{};
    int64_t j = 0;
    for (; j + L <= M; j += L) {
        const vec<T> v = load(c + j);
        most = v > most ? v : most;
    }
    for (int i = 0; i < L; ++i) best = std::max(best, most[i]);
    for (; j < M; ++j) best = std::max(best, c[j]);
    return best;
}

// use(j) for every j with c[j] >= limit, in order.
template <class T, class Use>
void each_above(const T* c, int64_t M, T limit, Use use) {
    constexpr int L = kLanes<T>;
    constexpr std::uint32_t all = L == 32 ? ~0u : (1u << L) - 1;
    int64_t j = 0;
    for (; j + L <= M; j += L)
        for (std::uint32_t bits = ~lanes_below(load(c + j), limit) & all; bits; bits &= bits - 1)
            use(j + __builtin_ctz(bits));
    for (; j < M; ++j)
        if (c[j] >= limit) use(j);
}

// At least the norm of x. Of rows so small that their squares underflow, a dot product would say that they have none.
template <class T>
T norm_bound(const T* x, int64_t D) {
    using Limits = std::numeric_limits<T>;
    const T norm = std::sqrt(dot(x, x, D));
    if (norm > std::sqrt(Limits::min() / Limits::epsilon())) return norm;
    T most = 0;
    for (int64_t d = 0; d < D; ++d) most = std::max(most, std::abs(x[d]));
    return most * std::sqrt(static_cast<T>(D));
}

// How far c0 - sum z gram can be from the dot products with x - sum z w, for size codes whose magnitudes and the norm
// of x add to reach. Both err by at most (D / 32 + 8 + 2 (size + 1)) u reach, u half of epsilon: D / 32 additions and a
// tree of 5 a dot product, size terms a sum. Where products underflow, each loses at most the smallest number: D of a
// dot product, size for each of D elements.
template <class T>
T slack_of(T reach, int64_t size, int64_t D) {
    const T steps = static_cast<T>(D / 32 + 10 + 2 * size);
    const T lost = static_cast<T>(2 * (D + 1) * (size + 1)) * std::numeric_limits<T>::denorm_min();
    return 2 * steps * std::numeric_limits<T>::epsilon() * reach + lost;
}

// Throws unless every row of w has norm 1, or 0.
template <class T>
void check_unit_rows(const T* w, int64_t M, int64_t D) {
    for (int64_t j = 0; j < M; ++j)
        if (const T squared = dot(w + j * D, w + j * D, D); squared != 0 && !(std::abs(squared - 1) < T(1e-3)))
            throw std::invalid_argument("w: row " + std::to_string(j) + " has norm " +
                                        std::to_string(std::sqrt(squared)) + ", expected 1 or 0");
}

}  // namespace sparse_sae
