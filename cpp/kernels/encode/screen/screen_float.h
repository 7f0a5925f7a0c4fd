// Screening by a product in the element type.
//
// The approximation differs from the canonical value (simd.h: dot + bias) by at most error_bound(): both are
// sums of D products with a unit roundoff u, so each is within (D + 2) u sum|x_d w_d| + u|b| of the exact value
// up to second order, and sum|x_d w_d| <= |x| |w| (Cauchy-Schwarz).
#pragma once

#include <cmath>
#include <limits>

#include "kernels/common/buffer.h"
#include "kernels/encode/screen/sweep.h"

namespace sparse_sae {

template <class T>
T norm(const T* v, int64_t D) {
    return std::sqrt(dot(v, v, D));
}

struct DictionaryScale {
    double norm, bias;  // the largest |w| and |b|
};

template <class T>
DictionaryScale dictionary_scale(const Dictionary<T>& dict, int num_threads) {
    constexpr int64_t kBlock = 256;
    const int64_t n_blocks = (dict.M + kBlock - 1) / kBlock;
    std::vector<DictionaryScale> part(static_cast<std::size_t>(n_blocks), DictionaryScale{0, 0});
    parallel_for(n_blocks, num_threads, [&](int64_t block) {
        DictionaryScale s{0, 0};
        for (int64_t j = block * kBlock; j < std::min(dict.M, (block + 1) * kBlock); ++j) {
            s.norm = std::max(s.norm, static_cast<double>(norm(dict.row(j), dict.D)));
            s.bias = std::max(s.bias, std::abs(static_cast<double>(dict.bias(j))));
        }
        part[block] = s;
    });
    DictionaryScale all{0, 0};
    for (const auto& s : part) all = {std::max(all.norm, s.norm), std::max(all.bias, s.bias)};
    return all;
}

template <class T>
T error_bound(double row_norm, const DictionaryScale& scale, int64_t D) {
    constexpr double u = std::numeric_limits<T>::epsilon() / 2.0;
    // 2 (D + 2) u for the two sums, with room for the rounding of the norms and of this expression; the last
    // term is for products that underflow.
    const double bound = (2.0 * static_cast<double>(D) + 64) * u * (row_norm * scale.norm + scale.bias) * 1.01;
    return static_cast<T>(bound + static_cast<double>(D) * std::numeric_limits<T>::min());
}

// The screen of the element type itself.
template <class T>
class FloatScreen {
  public:
    // What all blocks of rows of a call share.
    struct Weights {
        const Dictionary<T>& dict;
        DictionaryScale scale;
        Weights(const Dictionary<T>& d, const Rows<T>&, int num_threads)
            : dict(d), scale(dictionary_scale(d, num_threads)) {}
        static int64_t row_bytes(int64_t D) { return D * static_cast<int64_t>(sizeof(T)); }
    };

    int64_t count, tiles, tiles_per_task;

    // Rows [n0, n0 + n) of the input.
    FloatScreen(const Weights& weights, const Rows<T>& rows, int64_t n0, int64_t n, int num_threads)
        : count(n),
          tiles((n + kTileRows - 1) / kTileRows),
          tiles_per_task(tiles_a_task(tiles, kTileRows * Weights::row_bytes(rows.D))),
          weights_(weights),
          rows_(buffer<T>(tiles * kTileRows * rows.D)),
          norms_(static_cast<std::size_t>(tiles * kTileRows)) {
        Rows<T> part = rows;
        part.N = n0 + n;
        parallel_for(tiles, num_threads, [&](int64_t t) {
            std::vector<T> scratch(static_cast<std::size_t>(rows.D));
            for (int r = 0; r < kTileRows && t * kTileRows + r < count; ++r) {
                rows.read(scratch.data(), n0 + t * kTileRows + r);
                norms_[t * kTileRows + r] = norm(scratch.data(), rows.D);
            }
            pack_rows(rows_.get() + t * kTileRows * rows.D, part, n0 + t * kTileRows, scratch.data());
        });
    }

    T bound(int64_t n) const { return error_bound<T>(static_cast<double>(norms_[n]), weights_.scale, weights_.dict.D); }
    int64_t panel_bytes() const { return kTileCols<T> * Weights::row_bytes(weights_.dict.D); }
    void reserve(int64_t panels) {
        latents_ = buffer<T>(panels * kTileCols<T> * weights_.dict.D);
        bias_ = buffer<T>(panels * kTileCols<T>);
    }
    void pack(int64_t slot, int64_t j0) {
        constexpr int C = kTileCols<T>;
        const Dictionary<T>& dict = weights_.dict;
        pack_latents(latents_.get() + slot * C * dict.D, dict, j0);
        for (int c = 0; c < C; ++c) bias_[slot * C + c] = j0 + c < dict.M ? dict.bias(j0 + c) : T(0);
    }
    unsigned product(T* s, int64_t tile, int64_t slot, const T* threshold) const {
        constexpr int C = kTileCols<T>;
        const int64_t D = weights_.dict.D;
        return tile_product(s, rows_.get() + tile * kTileRows * D, latents_.get() + slot * C * D,
                            bias_.get() + slot * C, threshold, D);
    }

  private:
    const Weights& weights_;
    Buffer<T> rows_, latents_, bias_;
    std::vector<T> norms_;
};

}  // namespace sparse_sae
