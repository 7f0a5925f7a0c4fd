// Included before every file of a build with SPARSE_SAE_EMULATE_AVX512: the AVX-512 and VNNI code of the kernels runs
// on any CPU, its intrinsics replaced by SIMDe's and its 64-byte vectors cut up by the compiler.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <immintrin.h>
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

// What SIMDe lacks.
inline __m512 emulated_cvtph_ps(__m256i halves) {
    const __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
    const __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
    __m512 out;
    std::memcpy(&out, &low, sizeof low);
    std::memcpy(reinterpret_cast<char*>(&out) + sizeof low, &high, sizeof high);
    return out;
}
inline __m512 emulated_shuffle_f32x4(__m512 a, __m512 b, int which) {
    float from[2][16], out[16];
    std::memcpy(from[0], &a, sizeof a);
    std::memcpy(from[1], &b, sizeof b);
    for (int part = 0; part < 4; ++part)
        std::memcpy(out + 4 * part, from[part / 2] + 4 * (which >> 2 * part & 3), 4 * sizeof(float));
    __m512 all;
    std::memcpy(&all, out, sizeof all);
    return all;
}
#undef _mm512_cvtph_ps
#undef _mm512_shuffle_f32x4
#define _mm512_cvtph_ps emulated_cvtph_ps
#define _mm512_shuffle_f32x4 emulated_shuffle_f32x4

// Only now, so that neither the compiler's headers nor SIMDe believe it.
#define __AVX512F__ 1
#define __AVX512VNNI__ 1
// The one instruction that is written in assembly is its intrinsic then.
#define SPARSE_SAE_EMULATED 1
