#include "kernels/encode/screen/byte_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/simd.h"

namespace sparse_sae {
namespace {

constexpr int L = kLanes<float>;

// Lane i becomes (lane i ^ kBit) + lane i, or minus it where i has the bit.
template <int kBit>
vec<float> mix(vec<float> v) {
    vec<float> sign;
    vec<int32_t> partner;
    for (int i = 0; i < L; ++i) sign[i] = i & kBit ? -1.0f : 1.0f, partner[i] = i ^ kBit;
#if defined(__clang__)
    vec<float> other;
    for (int i = 0; i < L; ++i) other[i] = v[i ^ kBit];
#else
    const vec<float> other = __builtin_shuffle(v, partner);
#endif
    return other + sign * v;
}

float sum_of(vec<float> v) {
    float sum = 0;
    for (int i = 0; i < L; ++i) sum += v[i];
    return sum;
}

float largest(const float* v, int64_t padded) {
    vec<float> most = {};
    for (int64_t d = 0; d < padded; d += L) {
        const vec<float> x = load(v + d), size = x < 0 ? -x : x;
        most = size > most ? size : most;
    }
    float all = 0;
    for (int i = 0; i < L; ++i) all = std::max(all, most[i]);
    return all;
}

}  // namespace

void rotate(float* v, int64_t padded) {
    constexpr int V = kRotated / L;
    for (int64_t d = 0; d < padded; d += kRotated) {
        vec<float> a[V];
        for (int i = 0; i < V; ++i) {
            a[i] = mix<2>(mix<1>(0.125f * load(v + d + i * L)));
            if constexpr (L > 4) a[i] = mix<4>(a[i]);
            if constexpr (L > 8) a[i] = mix<8>(a[i]);
        }
        for (int h = 1; h < V; h *= 2)
            for (int i = 0; i < V; ++i)
                if (!(i & h)) {
                    const vec<float> sum = a[i] + a[i + h];
                    a[i + h] = a[i] - a[i + h];
                    a[i] = sum;
                }
        for (int i = 0; i < V; ++i) store(v + d + i * L, a[i]);
    }
}

Quantised quantise(std::int8_t* q, const float* v, int64_t padded, float least) {
    const float most = largest(v, padded);
    const bool fits = most > 1e-18f && most < 1e18f;
    const float step = std::max(fits ? most / 127 : 0, least), inverse = fits ? 1 / step : 0;
    constexpr float kRounds = 12582912;  // 1.5 * 2^23: sums with it have no digits behind the point
    vec<float> squares = {}, errors = {};
    vec<int32_t> sums = {};
    for (int64_t d = 0; d < padded; d += L) {
        const vec<float> x = load(v + d);
        vec<float> level = (x * inverse + kRounds) - kRounds;
        level = level < 127.0f ? level : vec<float>{} + 127.0f;  // a NaN too
        level = level > -127.0f ? level : vec<float>{} - 127.0f;
        const vec<float> off = x - step * level;
        squares += x * x;
        errors += off * off;
        const vec<int32_t> whole = __builtin_convertvector(level, vec<int32_t>);
        sums += whole;
        typedef std::int8_t bytes __attribute__((vector_size(L)));
        const bytes narrow = __builtin_convertvector(whole, bytes);
        std::memcpy(q + d, &narrow, L);
    }
    int32_t sum = 0;
    for (int i = 0; i < L; ++i) sum += sums[i];
    // 1 % for the roundings of these sums (padded up to 2^15); what squares to a denormal is far below the last term.
    const double tiny = 1e-18 * std::sqrt(static_cast<double>(padded));
    const double norm = 1.01 * std::sqrt(static_cast<double>(sum_of(squares))) + tiny;
    const double off = 1.01 * std::sqrt(static_cast<double>(sum_of(errors))) +
                       static_cast<double>(std::numeric_limits<float>::epsilon()) * norm + tiny;
    return {step, static_cast<float>(1.001 * norm), static_cast<float>(1.001 * off), sum};
}

}  // namespace sparse_sae
