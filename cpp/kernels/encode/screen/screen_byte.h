// Screening by a product of 8-bit integers, for CPUs that multiply these several times faster than floats.
//
// With a centre c and scales s (powers of two, so that scaling is exact), y = (x - c) / s and u = w s:
//     x . w + b  =  y . u  +  (c . w + b)
// y and u are replaced by multiples of one number a row and one a latent, y~ = a q and u~ = b p with q and p in
// [-127, 127], and y~ . u~ = a b (q . p) is an exact integer product times two floats. By Cauchy-Schwarz
//     |y . u - y~ . u~|  <=  |y - y~| |u| + |y~| |u - u~|,
// where all four norms are measured, not estimated: whatever the data, an answer settled with this bound is certain.
// It differs from latent to latent, so what is handed out is the upper end of each interval, and spread() its length.
// How tight it is does depend on the data. Activations of language models have a mean that is not zero and a few
// dimensions far larger than the rest. So c is the mean of some rows; the kDirect dimensions that weigh most are left
// out of y and u and multiplied as floats; and s balances the spread of rows and weights in each of the others, which
// moves the scale of a large one half-way into the weights. Where the bound still decides little, candidates
// overflow and their rows are computed in full.
//
// Added to it: the roundings of x - c, of the few float operations around the integer product, of the measured
// norms (1 %), and the canonical value's own (screen_float.h).
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/encode/screen/screen_float.h"
#include "kernels/encode/screen/screening.h"

namespace sparse_sae {

class ByteScreen {
  public:
    static constexpr bool kValues = false;
    static constexpr int kRoom = 16;
    static constexpr int kDirect = 8;

    struct Weights {
        const Dictionary<float>& dict;
        std::vector<float> center, scale, inverse;     // (D); scale and inverse are 0 where products are direct
        std::vector<int64_t> direct;                   // at most kDirect dimensions
        std::vector<float> step, base, length, error;  // (M): b, c . w + b, |u| and |u - u~|, the last two rounded up
        double center_norm = 0;
        double u = 0, w = 0, bias = 0;  // the largest |u|, |w|, and |b| or |base|

        Weights(const Dictionary<float>& d, const Rows<float>& rows, int num_threads);
        // False where a weight is so large, or no number, that the bound would mean nothing.
        bool usable() const { return u + w + bias + center_norm < 1e18; }
        static int64_t row_bytes(int64_t D) { return (D + 3) / 4 * 4; }
    };

    int64_t count, tiles, tiles_per_task;

    ByteScreen(const Weights& weights, const Rows<float>& rows, int64_t n0, int64_t n, int num_threads);

    float bound(int64_t n) const { return bound_[n]; }
    Spread<float> spread() const {
        return {error_.data(), length_.data(), weights_.length.data(), weights_.error.data()};
    }
    int64_t panel_bytes() const { return kTileCols<float> * Weights::row_bytes(weights_.dict.D); }
    void reserve(int64_t panels);
    void pack(int64_t slot, int64_t j0);
    unsigned product(float* s, int64_t tile, int64_t slot, const float* threshold) const;

  private:
    const Weights& weights_;
    Buffer<std::int8_t> rows_;                        // tiles of [D / 4][kTileRows][4]
    Buffer<std::uint8_t> latents_;                    // panels of [D / 4][kTileCols][4], p + 128
    Buffer<float> step_, base_, w_length_, w_error_;  // of the packed latents
    Buffer<float> direct_;                            // panels of [kDirect][kTileCols] weights
    std::vector<float> unit_, bound_, length_, error_, direct_rows_;
    std::vector<int32_t> sum_;  // of a row's q
};

#if defined(__AVX512VNNI__)
inline constexpr bool kFastBytes = true;
#else
inline constexpr bool kFastBytes = false;
#endif
// Shorter rows spend their time around the product; longer ones could overflow its 32-bit sums. Fewer rows than
// kByteRows do not repay measuring and packing the weights.
inline constexpr int64_t kByteMin = 128, kByteMax = 1 << 15, kByteRows = 512;

template <class Screen>
struct Of {
    using type = Screen;
};

// run(Of<Screen>, weights) with the screen to use.
template <class T, class Run>
auto with_screen(Screening how, const Dictionary<T>& dict, const Rows<T>& rows, int num_threads, Run run) {
    if constexpr (sizeof(T) == sizeof(float)) {
        const bool pays = kFastBytes && dict.D >= kByteMin && rows.N >= kByteRows;
        const bool wanted = how == Screening::bytes || (how == Screening::automatic && pays);
        if (wanted && dict.D <= kByteMax) {
            const ByteScreen::Weights weights(dict, rows, num_threads);
            if (weights.usable()) return run(Of<ByteScreen>{}, weights);
        }
    }
    const typename FloatScreen<T>::Weights weights(dict, rows, num_threads);
    return run(Of<FloatScreen<T>>{}, weights);
}

}  // namespace sparse_sae
