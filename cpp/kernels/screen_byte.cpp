#include "kernels/screen_byte.h"

#include <algorithm>
#include <numeric>

#include "kernels/parallel.h"
#include "kernels/quantise.h"
#include "kernels/tile_byte.h"

namespace sparse_sae {
namespace {

constexpr double kRoundoff = std::numeric_limits<float>::epsilon() / 2.0;
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

ByteScreen::ByteScreen(const Weights& weights, const Rows<float>& rows, int64_t n0, int64_t n, int num_threads)
    : count(n),
      tiles((n + kTileRows - 1) / kTileRows),
      tiles_per_task(tiles_a_task(tiles, kTileRows * Weights::row_bytes(rows.D))),
      weights_(weights),
      rows_(buffer<std::int8_t>(tiles * kTileRows * Weights::row_bytes(rows.D))),
      unit_(static_cast<std::size_t>(tiles * kTileRows), 0),
      bound_(static_cast<std::size_t>(tiles * kTileRows), 0),
      length_(static_cast<std::size_t>(tiles * kTileRows), 0),
      error_(static_cast<std::size_t>(tiles * kTileRows), 0),
      direct_rows_(static_cast<std::size_t>(tiles * kTileRows * kDirect), 0),
      sum_(static_cast<std::size_t>(tiles * kTileRows), 0) {
    const int64_t D = rows.D, padded = Weights::row_bytes(D);
    const DictionaryScale largest{weights.w, weights.bias};
    parallel_for(tiles, num_threads, [&](int64_t t) {
        std::vector<float> y(static_cast<std::size_t>(D));
        std::vector<std::int8_t> q(static_cast<std::size_t>(padded), 0);
        std::int8_t* tile = rows_.get() + t * kTileRows * padded;
        std::fill_n(tile, kTileRows * padded, std::int8_t{0});
        for (int r = 0; r < kTileRows && t * kTileRows + r < count; ++r) {
            const int64_t i = t * kTileRows + r;
            rows.read(y.data(), n0 + i);
            const double length = static_cast<double>(norm(y.data(), D));
            for (std::size_t e = 0; e < weights.direct.size(); ++e)
                direct_rows_[i * kDirect + e] = y[weights.direct[e]] - weights.center[weights.direct[e]];
            for (int64_t d = 0; d < D; ++d) y[d] = (y[d] - weights.center[d]) * weights.inverse[d];
            const Quantised found = quantise(q.data(), y.data(), D);
            unit_[i] = found.step;
            for (int64_t d = 0; d < padded; ++d) {
                sum_[i] += q[d];
                tile[(d / 4 * kTileRows + r) * 4 + d % 4] = q[d];
            }
            error_[i] = found.error;
            length_[i] = found.norm + found.error;
            // Each of the terms enters product()'s sum through at most a dozen float operations of its own and eleven
            // additions, and the error term is at most twice the first: 64 covers them.
            const double rounding =
                64 * kRoundoff * (length_[i] * weights.u + weights.bias + (length + weights.center_norm) * weights.w);
            bound_[i] = static_cast<float>(1.001 * rounding) + error_bound<float>(length, largest, D);
            if (!(bound_[i] < 1e30f)) bound_[i] = std::numeric_limits<float>::infinity();
        }
    });
}

void ByteScreen::reserve(int64_t panels) {
    latents_ = buffer<std::uint8_t>(panels * panel_bytes());
    step_ = buffer<float>(panels * kTileCols<float>);
    base_ = buffer<float>(panels * kTileCols<float>);
    w_length_ = buffer<float>(panels * kTileCols<float>);
    w_error_ = buffer<float>(panels * kTileCols<float>);
    direct_ = buffer<float>(panels * kTileCols<float> * kDirect);
}

void ByteScreen::pack(int64_t slot, int64_t j0) {
    constexpr int C = kTileCols<float>;
    const Dictionary<float>& dict = weights_.dict;
    std::uint8_t* panel = latents_.get() + slot * panel_bytes();
    std::fill_n(panel, panel_bytes(), std::uint8_t{128});
    std::vector<float> v(static_cast<std::size_t>(dict.D));
    std::vector<std::int8_t> p(static_cast<std::size_t>(dict.D));
    for (int c = 0; c < C; ++c) {
        const int64_t j = j0 + c;
        step_[slot * C + c] = j < dict.M ? weights_.step[j] : 0;
        base_[slot * C + c] = j < dict.M ? weights_.base[j] : 0;
        w_length_[slot * C + c] = j < dict.M ? weights_.length[j] : 0;
        w_error_[slot * C + c] = j < dict.M ? weights_.error[j] : 0;
        for (int e = 0; e < kDirect; ++e) {
            const bool has = j < dict.M && e < static_cast<int>(weights_.direct.size());
            direct_[(slot * kDirect + e) * C + c] = has ? dict.row(j)[weights_.direct[e]] : 0;
        }
        if (j >= dict.M) continue;
        // Once more, rather than keeping M * D bytes from when the norms were measured.
        for (int64_t d = 0; d < dict.D; ++d) v[d] = dict.row(j)[d] * weights_.scale[d];
        quantise(p.data(), v.data(), dict.D);
        for (int64_t d = 0; d < dict.D; ++d) panel[(d / 4 * C + c) * 4 + d % 4] = static_cast<std::uint8_t>(p[d] + 128);
    }
}

unsigned ByteScreen::product(float* s, int64_t tile, int64_t slot, const float* threshold) const {
    constexpr int R = kTileRows, C = kTileCols<float>;
    const int64_t padded = Weights::row_bytes(weights_.dict.D);
    alignas(64) int32_t dots[R * C];
    integer_tile(dots, rows_.get() + tile * R * padded, latents_.get() + slot * C * padded, padded / 4);
    const float *step = step_.get() + slot * C, *base = base_.get() + slot * C;
    const float *w_length = w_length_.get() + slot * C, *w_error = w_error_.get() + slot * C;
    const float* w = direct_.get() + slot * kDirect * C;
    unsigned reached = 0;
    for (int r = 0; r < R; ++r) {
        const float unit = unit_[tile * R + r];
        const int32_t shift = 128 * sum_[tile * R + r];
        const float* x = direct_rows_.data() + (tile * R + r) * kDirect;
        for (int c = 0; c < C; ++c) {
            float sum = unit * step[c] * static_cast<float>(dots[r * C + c] - shift) + base[c];
            sum += error_[tile * R + r] * w_length[c] + length_[tile * R + r] * w_error[c];
            for (int e = 0; e < kDirect; ++e) sum += x[e] * w[e * C + c];
            s[r * C + c] = sum;
        }
        reached |= static_cast<unsigned>(lanes_reaching(s + r * C, threshold[r]) != 0) << r;
    }
    return reached;
}

}  // namespace sparse_sae
