// The approximations of all pre-activations of a handful of rows, by a kept copy of the latents.
#pragma once

#include "kernels/common/rows.h"
#include "kernels/common/simd.h"
#include "kernels/encode/screen/byte_product.h"

namespace sparse_sae {

// Rows are made numbers of 16 bits, two bytes each, so that what approximations are off by is the error of the weights
// alone: multiplying costs little beside reading them. Memory: O(N M).
class FewRows {
  public:
    FewRows(const ByteCopy& kept, const Rows<float>& rows, const Dictionary<float>& dict, Screening how,
            int num_threads);

    bool usable() const { return usable_; }  // as ByteLatents::usable
    const float* input(int64_t n) const { return x_.get() + n * D_; }
    // Of row n, all latents: the approximations, and by how much the canonical values of [j, j + L) may be off.
    const float* about(int64_t n) const { return about_.get() + n * room_; }
    vec<float> off(int64_t n, int64_t j) const {
        const Row& row = row_[n];
        return row.error * load(kept_.length() + j) + row.length * load(kept_.error() + j) + row.bound;
    }
    bool undecided(int64_t n) const { return row_[n].full; }  // not finite, or so large that nothing is known

  private:
    struct Row {
        float unit, length, error, bound;  // as in ByteRow
        bool full;
    };
    const ByteCopy& kept_;
    const int64_t D_, room_;
    bool usable_;
    int64_t groups_, together_;  // groups of rows whose products are made together, and how many are in one
    RowPacking packing_;         // of a group: the upper bytes of its rows, then the lower
    std::vector<Row> row_;
    Buffer<float> x_, about_, direct_;
    Buffer<std::int8_t> bytes_;
    Buffer<int32_t> start_;  // of each packed row: -kByteOffset times the sum of its bytes

    void read(int64_t n, const Rows<float>& rows, double bias);
    // make() gives what multiplies, on the thread that uses it.
    template <class Make>
    void approximate(const Dictionary<float>& dict, int num_threads, Make make);
    // The approximations of a panel from the sums of a group.
    void write(const Dictionary<float>& dict, int64_t panel, int64_t group, const int32_t* sums);
};

}  // namespace sparse_sae
