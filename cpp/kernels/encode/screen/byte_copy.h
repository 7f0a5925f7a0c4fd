// All latents of a dictionary as bytes, kept between calls: for rows that come a few at a time, whose encoding would
// otherwise read four times as much.
#pragma once

#include <memory>

#include "kernels/common/buffer.h"
#include "kernels/encode/screen/byte_frame.h"
#include "kernels/encode/screen/tile.h"

namespace sparse_sae {

inline constexpr int kByteCols = kTileCols<float>;  // latents of a panel, and of a tile
inline constexpr int64_t kKeptRows = 512;           // with more, packing in a frame of their own is soon repaid

// What is known of a latent: u ~ step p, with p the packed bytes; length and error are at least |u| and |u - step p|.
struct ByteKnown {
    float step, length, error;
};

// An order of visits to the panels of M latents in which what has been seen is like a sample of all.
std::vector<int32_t> byte_visits(int64_t M);

// out [padded / 4][kByteCols][4] = p + kByteOffset of the latents of a panel, found (kByteCols) what is known of them.
// u: the largest |u| of all.
void pack_byte_panel(std::uint8_t* out, ByteKnown* found, const Dictionary<float>& dict, const ByteFrame& frame,
                     int64_t panel, double u);

class ByteCopy {
  public:
    const ByteFrame frame;
    const std::vector<int32_t> visit;
    double u = 0, w = 0;  // the largest |u| and |w|
    bool finite = true;

    // The frame is that of `rows`, which may be none.
    ByteCopy(const Rows<float>& rows, const Dictionary<float>& dict, int num_threads);

    const std::uint8_t* bytes(int64_t position) const { return bytes_.get() + position * frame.padded * kByteCols; }
    ByteKnown known(int64_t j) const { return {step()[j], length()[j], error()[j]}; }
    float at_center(int64_t j) const { return at_center()[j]; }
    // One number a latent, with room for whole panels.
    const float* step() const { return numbers_.get(); }
    const float* length() const { return numbers_.get() + room_; }
    const float* error() const { return numbers_.get() + 2 * room_; }
    const float* at_center() const { return numbers_.get() + 3 * room_; }
    int64_t memory() const {  // bytes
        return room_ * (frame.padded + 4 * (4 + static_cast<int64_t>(frame.direct.size())));
    }
    const float* direct(int64_t e) const { return numbers_.get() + (4 + e) * room_; }  // weights of a direct dimension

  private:
    const int64_t room_;
    Buffer<std::uint8_t> bytes_;
    Buffer<float> numbers_;
};

}  // namespace sparse_sae
