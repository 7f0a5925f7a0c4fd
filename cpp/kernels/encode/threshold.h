// Encode with every pre-activation above a threshold.
#pragma once

#include "kernels/common/rows.h"
#include "kernels/encode/dictionary.h"
#include "kernels/encode/screen/screening.h"

namespace sparse_sae {

// Keeps (n, j) where the canonical pre-activation exceeds threshold[j] (strictly); threshold is (M) over all
// latents of w, or null for zero. A NaN pre-activation is never kept. Memory: O(N + entries kept).
template <class T>
Codes<T> encode_threshold(const Rows<T>& rows, const Dictionary<T>& dict, const T* threshold, int num_threads,
                          Screening how = Screening::automatic);

// Keeps the `total` largest positive pre-activations of all rows together (BatchTopK, arXiv 2412.06410).
// Ties: the lower row, then the lower latent.
template <class T>
Codes<T> encode_batch_topk(const Rows<T>& rows, const Dictionary<T>& dict, int64_t total, int num_threads,
                           Screening how = Screening::automatic);

}  // namespace sparse_sae
