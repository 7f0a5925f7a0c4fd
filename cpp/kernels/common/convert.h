// A row of stored numbers as floats: every conversion is exact, but for float64 to float32.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif
#include <cstring>

#include "kernels/common/types.h"

namespace sparse_sae {

inline float from_bits(std::uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

inline float bfloat16_to_float(std::uint16_t h) { return from_bits(static_cast<std::uint32_t>(h) << 16); }

// Exact for every half: the exponent is moved by a multiplication, which also normalises subnormals.
inline float float16_to_float(std::uint16_t h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
    const std::uint32_t rest = static_cast<std::uint32_t>(h & 0x7fffu) << 13;
    if ((h & 0x7c00u) == 0x7c00u) return from_bits(sign | 0x7f800000u | rest);
    return from_bits(sign | rest) * 0x1p112f;
}

// Where the CPU has the instruction, float16 rows go through it: the compiler does not find it by itself.
template <class T>
void widen_float16(T* out, const std::uint16_t* x, int64_t D) {
    int64_t d = 0;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        for (; d + 16 <= D; d += 16)
            _mm512_storeu_ps(out + d, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + d))));
#elif defined(__F16C__)
    if constexpr (sizeof(T) == 4)
        for (; d + 8 <= D; d += 8)
            _mm256_storeu_ps(out + d, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + d))));
#endif
    for (; d < D; ++d) out[d] = static_cast<T>(float16_to_float(x[d]));
}

// out = the D elements of type `dtype` from the at-th on.
template <class T>
void widen(T* out, const void* x, Dtype dtype, int64_t at, int64_t D) {
    const auto each = [&](const auto* row, auto convert) {
        for (int64_t d = 0; d < D; ++d) out[d] = static_cast<T>(convert(row[d]));
    };
    const auto same = [](auto v) { return v; };
    switch (dtype) {
        case Dtype::float16:
            return widen_float16(out, static_cast<const std::uint16_t*>(x) + at, D);
        case Dtype::bfloat16:
            return each(static_cast<const std::uint16_t*>(x) + at, bfloat16_to_float);
        case Dtype::float32:
            return each(static_cast<const float*>(x) + at, same);
        case Dtype::float64:
            return each(static_cast<const double*>(x) + at, same);
        case Dtype::int8:
            return each(static_cast<const std::int8_t*>(x) + at, same);
    }
}

}  // namespace sparse_sae
