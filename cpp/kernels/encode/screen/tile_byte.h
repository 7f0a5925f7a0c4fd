// The inner product tile in 8-bit integers: exact 32-bit sums.
//
// Rows are packed as [quads][kTileRows][4] signed bytes, latents as [quads][kTileCols][4] unsigned ones, four inputs a
// quad: what one dot-product instruction adds to one sum.
#pragma once

#include <cstdint>

#include "kernels/encode/screen/tile.h"

namespace sparse_sae {

// out (kTileRows, kTileCols) = rows . latents.
#if defined(__AVX512VNNI__)
inline void integer_tile(int32_t* out, const std::int8_t* x, const std::uint8_t* w, int64_t quads) {
    constexpr int R = kTileRows, C = kTileCols<float>;
    static_assert(C == 32, "two vectors of latents");
    __m512i acc[R][2] = {};
    for (int64_t d = 0; d < quads; ++d, x += 4 * R, w += 4 * C) {
        const __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            int32_t four;
            std::memcpy(&four, x + 4 * r, 4);
            const __m512i row = _mm512_set1_epi32(four);
            acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], w0, row);
            acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], w1, row);
        }
    }
    for (int r = 0; r < R; ++r) {
        _mm512_storeu_si512(out + r * C, acc[r][0]);
        _mm512_storeu_si512(out + r * C + 16, acc[r][1]);
    }
}
#else
// The same integers anywhere; no faster than floats.
inline void integer_tile(int32_t* out, const std::int8_t* x, const std::uint8_t* w, int64_t quads) {
    constexpr int R = kTileRows, C = kTileCols<float>;
    std::fill_n(out, R * C, 0);
    for (int64_t d = 0; d < quads; ++d, x += 4 * R, w += 4 * C)
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c)
                out[r * C + c] += w[4 * c] * x[4 * r] + w[4 * c + 1] * x[4 * r + 1] + w[4 * c + 2] * x[4 * r + 2] +
                                  w[4 * c + 3] * x[4 * r + 3];
}
#endif

}  // namespace sparse_sae
