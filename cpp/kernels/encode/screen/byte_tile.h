// One tile of the byte screen: kTileRows rows against kByteCols latents. Its integer sums are exact; they are compared
// with the threshold of each pair in registers, and nothing but what reaches it leaves them.
#pragma once

#include "kernels/encode/screen/byte_rows.h"
#include "kernels/encode/screen/screening.h"

namespace sparse_sae {

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(SPARSE_SAE_VNNI_AS_EVEX)
inline constexpr bool kFastBytes = true;
#else
inline constexpr bool kFastBytes = false;  // the same integers, no faster than floats
#endif

// Whether a call of so few rows that screens are not measured on it is to use the bytes kept of its dictionary.
template <class T>
bool use_kept(const Dictionary<T>& dict, int64_t n_rows, Screening how) {
    return dict.kept && n_rows > 0 && n_rows < kKeptRows &&
           (how == Screening::bytes || (how == Screening::automatic && kFastBytes));
}

// To each 32-bit lane of sum: the products of its four unsigned bytes of w with its four signed bytes of x.
inline __attribute__((always_inline)) void add_quads(vec<int32_t>& sum, vec<int32_t> w, vec<int32_t> x) {
#if defined(__AVX512VNNI__) && !defined(SPARSE_SAE_EMULATED)
    // One instruction in assembly: GCC 12 keeps sums on the stack that its own intrinsic accumulates.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
#elif defined(__AVXVNNI__)
    // AVX-VNNI has the encoding of AVX2, which assemblers use only where they are told: without, it is of AVX-512.
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
#elif defined(SPARSE_SAE_VNNI_AS_EVEX)
    asm("vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
#elif defined(__AVX512VNNI__)
    sum = (vec<int32_t>)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#else
    sum += (w & 255) * (x << 24 >> 24) + (w >> 8 & 255) * (x << 16 >> 24) + (w >> 16 & 255) * (x << 8 >> 24) +
           (w >> 24 & 255) * (x >> 24);
#endif
}

// sums (R, kByteCols) = start of each row + rows . latents, rows being [quads][R][4], latents [quads][kByteCols][4].
// A function of its own, not inlined: in the middle of a larger one GCC keeps sums in memory.
template <int R>
__attribute__((noinline)) void integer_sums(int32_t* sums, const std::int8_t* x, const std::uint8_t* w, int64_t quads,
                                            const int32_t* start) {
    constexpr int L = kLanes<int32_t>, kAhead = 4096;
    vec<int32_t> acc[R][2];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = start[r] - vec<int32_t>{};
    for (int64_t i = 0; i < quads; ++i, x += 4 * R, w += 8 * L) {
        vec<int32_t> w0, w1;
        std::memcpy(&w0, w, sizeof w0);
        std::memcpy(&w1, w + sizeof w0, sizeof w1);
        if constexpr (R <= 4) {  // so little is done with a vector that waiting for memory is what takes the time
            __builtin_prefetch(w + kAhead);
            __builtin_prefetch(w + kAhead + sizeof w0);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            int32_t four;
            std::memcpy(&four, x + 4 * r, 4);
            const vec<int32_t> row = four - vec<int32_t>{};
            add_quads(acc[r][0], w0, row);
            add_quads(acc[r][1], w1, row);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        store(sums + (2 * r) * L, acc[r][0]);
        store(sums + (2 * r + 1) * L, acc[r][1]);
    }
}

// Appends the latents of the panel at `position` of the order that reach the thresholds of tile t's rows to their
// lists. kDirect: there are dimensions that are multiplied as floats. make_room(n) is called where the list of row n is
// full and must leave it with room for another tile.
template <bool kDirect, class MakeRoom>
__attribute__((noinline)) void byte_tile(ByteRows& rows, int64_t t, int64_t position, MakeRoom& make_room) {
    constexpr int R = kTileRows, C = kByteCols, L = kLanes<float>;
    const ByteLatents& latents = rows.latents;
    alignas(64) int32_t sums[R * C];
    integer_sums<R>(sums, rows.bytes(t), latents.bytes(position), latents.frame.padded / 4, rows.start(t));
    const int64_t n_lines = latents.line_count();
    const float* line = latents.lines(position);
    vec<int32_t> lane;
    for (int i = 0; i < L; ++i) lane[i] = i;
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h, line += L) {
        const vec<float> one = load(line), base = load(line + C), length = load(line + 2 * C),
                         error = load(line + 3 * C);
        const vec<int32_t> j = lane + (latents.visit[position] * C + h * L);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const float* row = rows.lines(t) + r * n_lines;
            vec<float> sum = __builtin_convertvector(load(sums + r * C + h * L), vec<float>);
            if constexpr (kDirect)
                for (int64_t e = 4; e < n_lines; ++e) sum += row[e] * load(line + e * C);
            const vec<float> threshold = row[0] * one + row[1] * base + row[2] * length + row[3] * error;
            const std::uint32_t reach = lanes_reach(sum, threshold);
            if (__builtin_expect(reach != 0, 0)) {
                const int64_t n = t * R + r;
                ByteRow& at = rows.row[n];
                store_lanes<float>(rows.sums(n) + at.found, sum, reach);
                store_lanes<int32_t>(rows.listed(n) + at.found, j, reach);
                at.found += __builtin_popcount(reach);
            }
        }
    }
    for (int r = 0; r < R; ++r)
        if (__builtin_expect(rows.list_is_full(t * R + r), 0)) make_room(t * R + r);
}

}  // namespace sparse_sae
