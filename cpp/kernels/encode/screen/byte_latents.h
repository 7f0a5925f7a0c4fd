// The latents as the byte screen sees them: what is measured of each, and the packed panels of some.
#pragma once

#include "kernels/encode/screen/byte_copy.h"

namespace sparse_sae {

class ByteLatents {
  public:
    // Of a latent; base is its pre-activation at the centre.
    struct Known : ByteKnown {
        float base;
    };

    const Dictionary<float>& dict;
    const ByteCopy* const kept;  // whose bytes are used where there is one
    const ByteFrame frame;
    double u = 0, w = 0, bias = 0;     // the largest |u|, |w|, and |b|, |base| or |threshold|
    const std::vector<int32_t> visit;  // panels in the order of visits, which strides through the dictionary

    // With a threshold (M over all latents of dict.w), it is subtracted from the base: approximations are then of
    // pre-activation - threshold. A kept copy serves where rows are so few that packing for them would take longer.
    ByteLatents(const Rows<float>& rows, const Dictionary<float>& dict, const float* threshold, int num_threads);

    // False where weights are not finite, huge or all zero, so that the bound would mean nothing.
    bool usable() const { return finite_ && u > 1e-18 && u + w + bias + frame.center_norm < 1e18; }

    int64_t visits() const { return static_cast<int64_t>(visit.size()); }
    // Packs the panel at `position` of the order and as many of the following as there is room for, unless it is
    // packed; returns the position after the last that is.
    int64_t pack(int64_t position, int num_threads);
    void release() { bytes_.reset(), lines_.reset(); }

    // Lines of kByteCols floats of a packed panel that thresholds are made of, by the latent's step:
    // 1, -base, -|u|, -|u - u~|, and the weights of the direct dimensions.
    int64_t line_count() const { return 4 + static_cast<int64_t>(frame.direct.size()); }
    const float* lines(int64_t position) const { return lines_.get() + (position - from_) * line_count() * kByteCols; }
    // [padded / 4][kByteCols][4]: p + kByteOffset.
    const std::uint8_t* bytes(int64_t position) const {
        return kept ? kept->bytes(position) : bytes_.get() + (position - from_) * frame.padded * kByteCols;
    }
    const Known& known(int64_t j) const { return known_[j]; }

  private:
    Buffer<Known> known_;  // (M); step, length and error of the latents that have been packed
    bool finite_ = true;
    int64_t from_ = 0, to_ = 0, slots_;  // positions that are packed; how many there is room for
    Buffer<std::uint8_t> bytes_;
    Buffer<float> lines_;

    void measure(const float* threshold, int num_threads);
    void write_lines(float* line, int64_t panel) const;
};

}  // namespace sparse_sae
