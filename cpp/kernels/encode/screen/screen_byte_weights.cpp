// What the 8-bit screen knows of the weights: centre, scales, heavy dimensions, norms and errors (screen_byte.h).
#include "kernels/encode/screen/screen_byte.h"

#include <algorithm>
#include <numeric>

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/quantise.h"

namespace sparse_sae {
namespace {

constexpr int64_t kSample = 512;  // rows, and latents, that centre and scales are taken from

// Mean, if wanted, and mean square around it, by dimension, of up to kSample of `count` vectors. Those that hold
// anything but numbers are passed over.
template <class Read>
void moments(std::vector<float>* mean, std::vector<double>& square, int64_t count, int64_t D, Read read) {
    std::vector<float> v(static_cast<std::size_t>(D));
    std::vector<double> sum(static_cast<std::size_t>(D), 0), sum2(static_cast<std::size_t>(D), 0);
    const int64_t stride = std::max<int64_t>(1, count / kSample);
    double seen = 0;
    for (int64_t i = 0; i < count; i += stride) {
        read(v.data(), i);
        const float all = norm(v.data(), D);
        if (!(all < 1e18f)) continue;
        seen += 1;
        for (int64_t d = 0; d < D; ++d) sum[d] += v[d], sum2[d] += static_cast<double>(v[d]) * v[d];
    }
    for (int64_t d = 0; d < D && seen > 0; ++d) {
        const double m = mean ? sum[d] / seen : 0;
        if (mean) (*mean)[d] = static_cast<float>(m);
        square[d] = std::max(0.0, sum2[d] / seen - m * m);
    }
}

}  // namespace

ByteScreen::Weights::Weights(const Dictionary<float>& d, const Rows<float>& rows, int num_threads)
    : dict(d),
      center(static_cast<std::size_t>(d.D), 0),
      scale(static_cast<std::size_t>(d.D), 1),
      inverse(static_cast<std::size_t>(d.D), 1),
      step(static_cast<std::size_t>(d.M)),
      base(static_cast<std::size_t>(d.M)),
      length(static_cast<std::size_t>(d.M)),
      error(static_cast<std::size_t>(d.M)) {
    const int64_t D = d.D;
    std::vector<double> of_rows(static_cast<std::size_t>(D), 0), of_weights(static_cast<std::size_t>(D), 0);
    moments(&center, of_rows, rows.N, D, [&](float* v, int64_t n) { rows.read(v, n); });
    moments(nullptr, of_weights, d.M, D, [&](float* v, int64_t j) { std::copy_n(d.row(j), D, v); });
    for (int64_t i = 0; i < D; ++i) {
        const double ratio = of_rows[i] / of_weights[i];  // of squares: its fourth root balances the two
        if (!(ratio > 1e-60 && ratio < 1e60)) continue;
        const int power = std::clamp(static_cast<int>(std::lround(std::log2(ratio) / 4)), -40, 40);
        scale[i] = std::ldexp(1.0f, power);
        inverse[i] = std::ldexp(1.0f, -power);
    }
    std::vector<int64_t> order(static_cast<std::size_t>(D));
    std::iota(order.begin(), order.end(), 0);
    const auto weight = [&](int64_t i) { return of_rows[i] * of_weights[i]; };
    direct.resize(static_cast<std::size_t>(std::min<int64_t>(kDirect, D)));
    std::partial_sort_copy(order.begin(), order.end(), direct.begin(), direct.end(),
                           [&](int64_t a, int64_t b) { return weight(a) > weight(b); });
    for (const int64_t i : direct) scale[i] = inverse[i] = 0;
    center_norm = static_cast<double>(norm(center.data(), D));
    struct Largest {
        double u = 0, w = 0, bias = 0;
    };
    constexpr int64_t kBlock = 64;
    std::vector<Largest> part(static_cast<std::size_t>((d.M + kBlock - 1) / kBlock));
    parallel_for(static_cast<int64_t>(part.size()), num_threads, [&](int64_t block) {
        std::vector<float> v(static_cast<std::size_t>(D));
        std::vector<std::int8_t> q(static_cast<std::size_t>(D));
        Largest& most = part[block];
        for (int64_t j = block * kBlock; j < std::min(d.M, (block + 1) * kBlock); ++j) {
            const float* row = d.row(j);
            double at_center = d.bias(j);
            for (int64_t i = 0; i < D; ++i) at_center += static_cast<double>(center[i]) * row[i];
            for (int64_t i = 0; i < D; ++i) v[i] = row[i] * scale[i];
            const Quantised found = quantise(q.data(), v.data(), D);
            step[j] = found.step;
            base[j] = static_cast<float>(at_center);
            length[j] = found.norm;
            error[j] = found.error;
            // Not std::max, which would lose a NaN.
            const auto raise = [](double& most, double value) { most = value <= most ? most : value; };
            raise(most.u, static_cast<double>(found.norm + found.error));
            raise(most.w, static_cast<double>(norm(row, D)));
            raise(most.bias, std::max(std::abs(at_center), std::abs(static_cast<double>(d.bias(j)))));
        }
    });
    for (const Largest& p : part) {
        u = p.u <= u ? u : p.u;
        w = p.w <= w ? w : p.w;
        bias = p.bias <= bias ? bias : p.bias;
    }
}

}  // namespace sparse_sae
