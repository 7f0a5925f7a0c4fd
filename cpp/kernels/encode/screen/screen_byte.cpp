#include "kernels/encode/screen/screen_byte.h"

#include <algorithm>

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/quantise.h"
#include "kernels/encode/screen/tile_byte.h"

namespace sparse_sae {

static constexpr double kRoundoff = std::numeric_limits<float>::epsilon() / 2.0;

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
