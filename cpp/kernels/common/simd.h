// The canonical dot product and the row update every kernel is made of.
//
// The canonical dot product defines what a pre-activation is. It keeps 32 partial sums (partial sum l adds the
// products of all positions congruent to l modulo 32, in order, fused where the CPU can) and folds them in a
// fixed tree. Every path that produces a code value, whichever way its candidates were found, ends in this
// function, so a value does not depend on batch size, tile position, thread count or screening; and all levels
// that have fused multiply-add agree to the bit.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/common/lanes.h"
#include "kernels/common/types.h"

namespace sparse_sae {

inline constexpr int kDotLanes = 32;

// Rows handled together: they share the loads of x, which are what limits a dot product in the cache, and their
// chains of dependent additions overlap. As many as the registers hold.
template <class T>
inline constexpr int kDotRows = std::max(1, (kVectorBytes == 64 ? 16 : 12) * kLanes<T> / kDotLanes);

template <class T, int B>
inline void dot_rows(T* out, const T* x, const T* const* w, int64_t D) {
    constexpr int L = kLanes<T>, A = kDotLanes / L;
    vec<T> acc[B][A] = {};
    int64_t d = 0;
    for (; d + kDotLanes <= D; d += kDotLanes)
        for (int a = 0; a < A; ++a) {
            const vec<T> xv = load(x + d + a * L);
            for (int b = 0; b < B; ++b) acc[b][a] += xv * load(w[b] + d + a * L);
        }
    for (int b = 0; b < B; ++b) {
        if (d < D) {
            alignas(64) T lane[kDotLanes];
            std::memcpy(lane, acc[b], sizeof lane);
            for (int64_t i = d; i < D; ++i) lane[i - d] += x[i] * w[b][i];
            std::memcpy(acc[b], lane, sizeof lane);
        }
        for (int h = A / 2; h > 0; h /= 2)
            for (int a = 0; a < h; ++a) acc[b][a] += acc[b][a + h];
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4) {  // the same tree, without a detour through memory
            const __m512 all = (__m512)acc[b][0];
            const __m512 far = _mm512_shuffle_f32x4(all, all, 0x4e);
            const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_castps512_ps256(far));
            const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
            const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            out[b] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
            continue;
        }
#endif
        T lane[L];
        store(lane, acc[b][0]);
        for (int h = L / 2; h > 0; h /= 2)
            for (int i = 0; i < h; ++i) lane[i] += lane[i + h];
        out[b] = lane[0];
    }
}

// out[i] = canonical dot of x and row(i), for i in [0, count).
template <class T, class Row>
inline void dot_many(T* out, const T* x, int64_t count, int64_t D, Row row) {
    constexpr int B = kDotRows<T>;
    const T* w[B];
    int64_t i = 0;
    for (; i + B <= count; i += B) {
        for (int b = 0; b < B; ++b) w[b] = row(i + b);
        dot_rows<T, B>(out + i, x, w, D);
    }
    const auto rest = [&](auto some) {
        constexpr int S = decltype(some)::value;
        if constexpr (S < B)
            for (; i + S <= count; i += S) {
                for (int b = 0; b < S; ++b) w[b] = row(i + b);
                dot_rows<T, S>(out + i, x, w, D);
            }
    };
    rest(std::integral_constant<int, 4>{});
    rest(std::integral_constant<int, 2>{});
    for (; i < count; ++i) {
        w[0] = row(i);
        dot_rows<T, 1>(out + i, x, w, D);
    }
}

template <class T>
inline T dot(const T* x, const T* w, int64_t D) {
    T out;
    dot_rows<T, 1>(&out, x, &w, D);
    return out;
}

// y += a[0]*w[0] + ... + a[B-1]*w[B-1], each position in that order.
template <class T, int B>
inline void add_group(T* y, const T* a, const T* const* w, int64_t D) {
    constexpr int L = kLanes<T>;
    T weight[B];
    const T* row[B];
    for (int b = 0; b < B; ++b) weight[b] = a[b], row[b] = w[b];
    int64_t d = 0;
    for (; d + L <= D; d += L) {
        vec<T> v = load(y + d);
        for (int b = 0; b < B; ++b) v += weight[b] * load(row[b] + d);
        store(y + d, v);
    }
    for (; d < D; ++d) {
        T v = y[d];
        for (int b = 0; b < B; ++b) v += weight[b] * row[b][d];
        y[d] = v;
    }
}

// y += a[0]*w[0] + a[1]*w[1] + ..., each position in that order, count rows of length D.
template <class T>
inline void add_rows(T* y, const T* a, const T* const* w, int64_t count, int64_t D) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) add_group<T, 8>(y, a + i, w + i, D);
    if (i + 4 <= count) add_group<T, 4>(y, a + i, w + i, D), i += 4;
    for (; i < count; ++i) add_group<T, 1>(y, a + i, w + i, D);
}

}  // namespace sparse_sae
