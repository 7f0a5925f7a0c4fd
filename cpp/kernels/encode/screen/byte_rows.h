// A block of rows as the byte screen sees them, each with the threshold its latents must reach and the list of those
// that have.
#pragma once

#include "kernels/encode/screen/byte_latents.h"
#include "kernels/encode/screen/byte_product.h"

namespace sparse_sae {

struct ByteRow {
    // y ~ unit q, with q the packed bytes; length and error are at least |y~| and |y - y~|; bound covers the roundings
    // of the float operations around the integer product, and those of the canonical value.
    float unit, length, error, bound;
    float cut;        // latents whose canonical value cannot reach it are not listed
    int32_t found;    // latents listed
    bool full;        // the screen decides nothing: all of the row's values must be computed,
    bool overflowed;  // unless only its list was too short, and a pass with longer ones follows
};

class ByteRows {
  public:
    const ByteLatents& latents;
    const Screening product;            // bytes or tiles
    const RowPacking packing;           // of a tile
    const std::vector<int32_t> source;  // which rows of the input these are
    const int64_t count, tiles, capacity;
    std::vector<ByteRow> row;

    // cut[i]: the first threshold of source[i]. capacity: latents that a list has room for, a multiple of kByteCols;
    // the last kByteCols of them are left free, so that a tile can always append.
    ByteRows(const ByteLatents& latents, const Rows<float>& rows, Screening product, std::vector<int32_t> source,
             const std::vector<float>& cut, int64_t capacity, int num_threads);

    // Writes a row's threshold in the units of the tile; to be called whenever `cut` or `full` has changed.
    void set_threshold(int64_t n);
    // Leaves the row to be computed in full.
    void give_up(int64_t n);
    bool list_is_full(int64_t n) const { return row[n].found + kByteCols > capacity; }

    // about[e], upper[e]: the approximation of listed pair e, and what its canonical value is at most.
    void ends(int64_t n, float* about, float* upper) const;
    // Drops the listed latents whose upper ends do not reach the cut.
    void drop_below_cut(int64_t n, const float* upper);

    // Of a tile, as `packing` says; -kByteOffset times the sum of each row's q.
    const std::int8_t* bytes(int64_t tile) const { return bytes_.get() + tile * packing.rows * latents.frame.padded; }
    const int32_t* start(int64_t tile) const { return start_.get() + tile * packing.rows; }
    // Factors of ByteLatents::lines, of each row of a tile: the threshold, 1, |y - y~|, |y~|, and the direct dimensions
    // of x - center, all by the row's unit.
    const float* lines(int64_t tile) const { return lines_.get() + tile * packing.rows * latents.line_count(); }

    float* sums(int64_t n) const { return sums_.get() + n * capacity; }  // of listed pairs, in units of both steps
    int32_t* listed(int64_t n) const { return listed_.get() + n * capacity; }

  private:
    Buffer<std::int8_t> bytes_;
    Buffer<int32_t> start_;
    Buffer<float> lines_, sums_;
    Buffer<int32_t> listed_;

    void read(int64_t n, const Rows<float>& rows, float cut);
};

// What `rank` of count values reach: the rank-th largest of them, or a little less. Found by halving an interval, which
// costs a tenth of a selection.
float reached_value(const float* v, int64_t count, int64_t rank, int halvings);

}  // namespace sparse_sae
