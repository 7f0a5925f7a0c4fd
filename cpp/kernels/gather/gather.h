// Rows by number, from wherever they lie (a mapped file, say), straight into a batch.
#pragma once

#include "kernels/common/types.h"

namespace sparse_sae {

// Rows of D elements, `stride` elements apart; scale has one factor for each, or is null.
struct Stored {
    const void* x;
    Dtype dtype;
    int64_t stride;
    const float* scale;
};

// out[i] = (stored[index[i]] * scale[index[i]] - center) * factor for i in [0, N): converted, then each operation
// rounded by itself, as whole arrays would be. Rows of out lie out_stride elements apart; center and factor are (D)
// or null. Returns the first i whose row holds a NaN or an infinity, or -1.
template <class T>
int64_t gather(T* out, int64_t out_stride, const Stored& stored, const int64_t* index, const T* center, const T* factor,
               int64_t N, int64_t D, int num_threads);

}  // namespace sparse_sae
