#include "kernels/encode/screen/byte_frame.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/screen_float.h"

namespace sparse_sae {
namespace {

constexpr int64_t kSample = 256;  // rows, and latents, that centre and scales are taken from
constexpr int64_t kMostDirect = 8;
constexpr double kExtreme = 256;  // times the product of spreads that is usual makes a dimension direct

// Mean square by dimension of about kSample of `count` vectors; around their mean, where that is wanted. Vectors that
// hold anything but numbers are passed over.
template <class Read>
std::vector<double> mean_squares(float* mean, int64_t count, int64_t D, Read read) {
    std::vector<float> v(static_cast<std::size_t>(D));
    std::vector<double> sum(static_cast<std::size_t>(D), 0), square(static_cast<std::size_t>(D), 0);
    double seen = 0;
    for (int64_t i = 0; i < count; i += std::max<int64_t>(1, count / kSample)) {
        read(v.data(), i);
        if (!(norm(v.data(), D) < 1e18f)) continue;
        seen += 1;
        for (int64_t d = 0; d < D; ++d) {
            const double value = static_cast<double>(v[d]);
            sum[d] += value, square[d] += value * value;
        }
    }
    for (int64_t d = 0; d < D && seen > 0; ++d) {
        const double m = mean ? sum[d] / seen : 0;
        if (mean) mean[d] = static_cast<float>(m);
        square[d] = std::max(0.0, square[d] / seen - m * m);
    }
    return square;
}

}  // namespace

ByteFrame::ByteFrame(const Rows<float>& rows, const Dictionary<float>& dict)
    : D(dict.D),
      padded(padded_size(dict.D)),
      center(static_cast<std::size_t>(D), 0),
      scale(static_cast<std::size_t>(D), 1),
      inverse(static_cast<std::size_t>(D), 1) {
    auto of_rows = mean_squares(center.data(), rows.N, D, [&](float* v, int64_t n) { rows.read(v, n); });
    if (rows.N == 0) std::fill(of_rows.begin(), of_rows.end(), 1.0);
    const auto of_latents =
        mean_squares(nullptr, dict.M, D, [&](float* v, int64_t j) { std::copy_n(dict.row(j), D, v); });
    std::vector<double> weight(static_cast<std::size_t>(D));
    for (int64_t d = 0; d < D; ++d) {
        weight[d] = of_rows[d] * of_latents[d];
        const double ratio = of_rows[d] / of_latents[d];  // of squares: its fourth root balances the two
        if (!(ratio > 1e-60 && ratio < 1e60)) continue;
        scale[d] = static_cast<float>(std::pow(ratio, 0.25));
        inverse[d] = 1 / scale[d];
    }
    std::vector<int64_t> order(static_cast<std::size_t>(D));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return weight[a] > weight[b]; });
    const double usual = weight[order[D / 2]];
    for (int64_t e = 0; e < std::min(kMostDirect, D) && rows.N > 0 && weight[order[e]] > kExtreme * usual; ++e)
        direct.push_back(order[e]);
    for (const int64_t d : direct) scale[d] = inverse[d] = 0;
    center_norm = static_cast<double>(norm(center.data(), D));
}

}  // namespace sparse_sae
