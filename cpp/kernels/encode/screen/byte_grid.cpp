#include "kernels/encode/screen/byte_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "kernels/common/simd.h"
#include "kernels/encode/screen/screen_float.h"

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

// At least |v| and |v - step q|, from their sums of squares.
std::pair<float, float> sizes(float squares, float errors, int64_t padded) {
    // 1 % for the roundings of these sums (padded up to 2^15); what squares to a denormal is far below the last term.
    const double tiny = 1e-18 * std::sqrt(static_cast<double>(padded));
    const double norm = 1.01 * std::sqrt(static_cast<double>(squares)) + tiny;
    const double off = 1.01 * std::sqrt(static_cast<double>(errors)) +
                       static_cast<double>(std::numeric_limits<float>::epsilon()) * norm + tiny;
    return {static_cast<float>(1.001 * norm), static_cast<float>(1.001 * off)};
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
    const auto [length, off] = sizes(sum_of(squares), sum_of(errors), padded);
    return {step, length, off, sum};
}

QuantisedWide quantise_wide(std::int8_t* upper, std::int8_t* lower, const float* v, int64_t padded) {
    const float most = largest(v, padded);
    const bool fits = most > 1e-18f && most < 1e18f;
    constexpr float kMost = 127 * 256;
    const float step = fits ? most / kMost : 0, inverse = fits ? 1 / step : 0;
    QuantisedWide found{step, 0, 0, 0, 0};
    float squares = 0, errors = 0;
    for (int64_t d = 0; d < padded; ++d) {
        const float wanted = v[d] * inverse;
        const float level = std::nearbyint(wanted < kMost ? (wanted > -kMost ? wanted : -kMost) : kMost);  // a NaN too
        const float off = v[d] - step * level;
        squares += v[d] * v[d];
        errors += off * off;
        const int32_t whole = static_cast<int32_t>(level), high = (whole + 128) >> 8;
        upper[d] = static_cast<std::int8_t>(high);
        lower[d] = static_cast<std::int8_t>(whole - 256 * high);
        found.upper_sum += upper[d];
        found.lower_sum += lower[d];
    }
    std::tie(found.norm, found.error) = sizes(squares, errors, padded);
    return found;
}

float byte_bound(float length, double size, int64_t D, const ByteScale& scale) {
    // Each term of a sum goes through at most a few dozen float operations (6 of them the rotation's), and the dot
    // product with the centre through D / 32 more.
    constexpr double kRoundoff = std::numeric_limits<float>::epsilon() / 2.0;
    const double terms = static_cast<double>(length) * scale.u + scale.bias + (size + scale.center_norm) * scale.w;
    const double rounding = (64 + static_cast<double>(D) / 16) * kRoundoff * terms;
    return static_cast<float>(1.001 * rounding) + error_bound<float>(size, {scale.w, scale.bias}, D);
}

}  // namespace sparse_sae
