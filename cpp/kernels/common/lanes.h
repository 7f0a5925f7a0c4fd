// Vectors of the level's width, and what is asked of their lanes.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace sparse_sae {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Vector;
template <>
struct Vector<float> {
    typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Vector<double> {
    typedef double type __attribute__((vector_size(kVectorBytes)));
};

template <>
struct Vector<int32_t> {
    typedef int32_t type __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using vec = typename Vector<T>::type;
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline vec<T> load(const T* p) {
    vec<T> v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class T>
inline void store(T* p, vec<T> v) {
    std::memcpy(p, &v, sizeof v);
}

#if defined(__aarch64__)
// Bit i is set where lane i is.
inline std::uint32_t neon_bits(uint32x4_t set) {
    constexpr std::uint32_t kBit[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(set, vld1q_u32(kBit)));
}
#endif

// Bit i is set where lane i is below t. NaN is below nothing.
template <class T>
inline std::uint32_t lanes_below(vec<T> v, T t) {
    const vec<T> limit = t - vec<T>{};
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return _mm512_cmp_ps_mask((__m512)v, (__m512)limit, _CMP_LT_OQ);
    else
        return _mm512_cmp_pd_mask((__m512d)v, (__m512d)limit, _CMP_LT_OQ);
#elif defined(__AVX__)
    const auto below = v < limit;
    if constexpr (sizeof(T) == 4)
        return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)below));
    else
        return static_cast<std::uint32_t>(_mm256_movemask_pd((__m256d)below));
#elif defined(__SSE2__)
    const auto below = v < limit;
    if constexpr (sizeof(T) == 4)
        return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)below));
    else
        return static_cast<std::uint32_t>(_mm_movemask_pd((__m128d)below));
#elif defined(__aarch64__)
    if constexpr (sizeof(T) == 4) return neon_bits((uint32x4_t)(v < limit));
    return static_cast<std::uint32_t>(v[0] < t) | static_cast<std::uint32_t>(v[1] < t) << 1;
#else
    std::uint32_t bits = 0;
    for (int i = 0; i < kLanes<T>; ++i) bits |= static_cast<std::uint32_t>(v[i] < t) << i;
    return bits;
#endif
}

// Bit i is set where lane i reaches that of t. NaN reaches nothing.
inline std::uint32_t lanes_reach(vec<float> v, vec<float> t) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, (__m512)t, _CMP_GE_OQ);
#elif defined(__AVX__)
    return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)(v >= t)));
#elif defined(__SSE2__)
    return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)(v >= t)));
#elif defined(__aarch64__)
    return neon_bits((uint32x4_t)(v >= t));
#else
    std::uint32_t bits = 0;
    for (int i = 0; i < kLanes<float>; ++i) bits |= static_cast<std::uint32_t>(v[i] >= t[i]) << i;
    return bits;
#endif
}

// Writes the lanes of v whose bits are set to out, one after the other; what follows them, up to a whole vector, is
// overwritten.
template <class T>
inline void store_lanes(T* out, vec<T> v, std::uint32_t bits) {
    static_assert(sizeof(T) == 4, "lanes of 32 bits");
#if defined(__AVX512F__)
    // In a register: the form that compresses into memory is slow on some processors.
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), (__m512i)v));
#else
    for (; bits; bits &= bits - 1) *out++ = v[__builtin_ctz(bits)];
#endif
}

}  // namespace sparse_sae
