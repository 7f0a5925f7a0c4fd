// The inner product tile: kTileRows rows against kTileCols latents, accumulated in registers.
//
// Both operands are packed so that the tile reads them front to back: rows as [D][kTileRows], latents as
// [D][kTileCols]. What is missing at an edge is packed as zeros, so there is one tile and one order of
// additions, whatever the shape.
#pragma once

#include <algorithm>

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/encode/dictionary.h"

namespace sparse_sae {

// Accumulators plus two latent vectors and a broadcast must fit the registers: 32 with AVX-512, else 16.
inline constexpr int kTileRows = kVectorBytes == 64 ? 12 : 6;
template <class T>
inline constexpr int kTileCols = 2 * kLanes<T>;

template <class T>
void pack_rows(T* out, const Rows<T>& rows, int64_t n0, T* scratch) {
    for (int r = 0; r < kTileRows; ++r) {
        if (n0 + r < rows.N) {
            rows.read(scratch, n0 + r);
            for (int64_t d = 0; d < rows.D; ++d) out[d * kTileRows + r] = scratch[d];
        } else {
            for (int64_t d = 0; d < rows.D; ++d) out[d * kTileRows + r] = 0;
        }
    }
}

template <class T>
void pack_latents(T* out, const Dictionary<T>& dict, int64_t j0) {
    constexpr int C = kTileCols<T>;
    constexpr int64_t kBlock = 16;  // whole cache lines of each row before moving on
    for (int64_t d0 = 0; d0 < dict.D; d0 += kBlock) {
        const int64_t d1 = std::min(dict.D, d0 + kBlock);
        for (int c = 0; c < C; ++c) {
            if (j0 + c < dict.M) {
                const T* w = dict.row(j0 + c);
                for (int64_t d = d0; d < d1; ++d) out[d * C + c] = w[d];
            } else {
                for (int64_t d = d0; d < d1; ++d) out[d * C + c] = 0;
            }
        }
    }
}

inline std::uint32_t first_lanes(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

// Bit i is set where s[i] of kTileCols values reaches t, or is NaN.
template <class T>
inline std::uint32_t lanes_reaching(const T* s, T t) {
    constexpr int L = kLanes<T>;
    const std::uint32_t below = lanes_below<T>(load(s), t) | lanes_below<T>(load(s + L), t) << L;
    return ~below & first_lanes(2 * L);
}

// s (kTileRows, kTileCols) = rows . latents + bias (kTileCols). Bit r of the result is set where any value of row r
// reaches threshold[r], or is NaN.
// A function of its own, not inlined: in the middle of a larger one GCC keeps an accumulator in memory.
template <class T>
__attribute__((noinline)) unsigned tile_product(T* s, const T* x, const T* w, const T* bias, const T* threshold,
                                                int64_t D) {
    constexpr int L = kLanes<T>, R = kTileRows;
    vec<T> acc[R][2] = {};
    for (int64_t d = 0; d < D; ++d) {
        const vec<T> w0 = load(w), w1 = load(w + L);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            acc[r][0] += x[r] * w0;
            acc[r][1] += x[r] * w1;
        }
        w += 2 * L;
        x += R;
    }
    const vec<T> b0 = load(bias), b1 = load(bias + L);
    unsigned reached = 0;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        const vec<T> s0 = acc[r][0] + b0, s1 = acc[r][1] + b1;
        store(s + 2 * L * r, s0);
        store(s + 2 * L * r + L, s1);
        constexpr std::uint32_t all = L == 32 ? ~0u : (1u << L) - 1;
        reached |= static_cast<unsigned>((lanes_below<T>(s0, threshold[r]) & lanes_below<T>(s1, threshold[r])) != all)
                   << r;
    }
    return reached;
}

}  // namespace sparse_sae
