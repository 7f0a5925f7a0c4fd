// Rows of input in any float type, read one at a time as T and centred on the way.
#pragma once

#include "kernels/common/types.h"

namespace sparse_sae {

// x is (N, D) with rows `stride` elements apart. center is (D) or null; read() gives x[n] - center.
template <class T>
struct Rows {
    const void* x;
    Dtype dtype;
    int64_t stride;
    const T* center;
    int64_t N, D;

    void read(T* out, int64_t n) const;
};

// Index of the first row holding a NaN or an infinity, or -1.
template <class T>
int64_t first_nonfinite_row(const Rows<T>& rows, int num_threads);

}  // namespace sparse_sae
