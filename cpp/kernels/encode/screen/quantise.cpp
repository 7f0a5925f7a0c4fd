#include "kernels/encode/screen/quantise.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sparse_sae {

Quantised quantise(std::int8_t* q, const float* v, int64_t D) {
    float most = 0;
    for (int64_t d = 0; d < D; ++d) most = std::max(most, std::abs(v[d]));
    const bool fits = most > 1e-18f && most < 1e18f;
    const float step = fits ? most / 127 : 0, inverse = fits ? 127 / most : 0;
    constexpr int kSums = 16;
    float squared[kSums] = {}, error[kSums] = {};
    const auto add = [&](int64_t d, int i) {
        const float scaled = v[d] * inverse;
        const float level = std::abs(scaled) < 127.5f ? std::nearbyint(scaled) : 0.0f;  // 0 for a NaN
        const float off = v[d] - step * level;
        q[d] = static_cast<std::int8_t>(level);
        squared[i] += v[d] * v[d];
        error[i] += off * off;
    };
    int64_t d = 0;
    for (; d + kSums <= D; d += kSums)
        for (int i = 0; i < kSums; ++i) add(d + i, i);
    for (; d < D; ++d) add(d, 0);
    double squares = 0, errors = 0;
    for (int i = 0; i < kSums; ++i) squares += squared[i], errors += error[i];
    // 1 % for the roundings of D sums (D below 2^15); what squares to a denormal is far below the last term.
    const double tiny = 1e-18 * std::sqrt(static_cast<double>(D));
    const double norm = 1.01 * std::sqrt(squares) + tiny;
    const double off = 1.01 * std::sqrt(errors) + std::numeric_limits<float>::epsilon() * norm + tiny;
    return {step, static_cast<float>(1.001 * norm), static_cast<float>(1.001 * off)};
}

}  // namespace sparse_sae
