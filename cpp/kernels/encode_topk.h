// Encode with exactly the K largest pre-activations of each row.
#pragma once

#include "kernels/dictionary.h"
#include "kernels/rows.h"

namespace sparse_sae {

struct TopK {
    int64_t k;
    bool absolute;  // rank by |value| and keep the sign; else rank by value
    bool relu;      // drop what is not positive (zeros are always dropped)
};

// Pre-activation (n, j) = dot(x[n] - center, w[j]) + b[j], canonical (simd.h). Ties: the lower index first.
// The result is that of sorting every row's pre-activations, for any input: screening only finds candidates,
// sweep.h bounds how far an approximation may be off, and a row whose candidates overflow is sorted in full
// (counted in `fallbacks`). Memory: O(N K), never O(N M). A NaN pre-activation is never selected.
template <class T>
Codes<T> encode_topk(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads);

// The simple version: all pre-activations of a row, then a partial sort. Fastest for a handful of rows.
template <class T>
Codes<T> encode_topk_simple(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads);

}  // namespace sparse_sae
