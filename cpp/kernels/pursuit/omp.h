// Codes by pursuit: the dictionary alone, without an encoder.
#pragma once

#include "kernels/common/rows.h"

namespace sparse_sae {

// Orthogonal matching pursuit with non-negative codes (Pati et al. 1993; refits over z >= 0 as in Bruckstein et
// al. 2008). For each row, up to k times: the unused latent with the largest canonical dot product with the
// residual joins, if that is positive (ties: the lower latent); then the codes of all that joined are refitted by
// least squares over z >= 0. Rows of w (M, D) have norm 1, or 0 for latents that never join; others throw. Codes
// that are refitted to zero are dropped. A row that is not finite gets no codes.
//
// simple: every residual is multiplied with all of w. Otherwise, where w w^T has at most kGramEntries (correlate.h) and
// N k is large enough to pay for it, correlations are updated through that matrix, which is D / k times less work.
// Their rounding errors are bounded, and latents within the bound of the largest are decided by the dot product itself:
// the codes are the same to the bit.
template <class T>
Codes<T> encode_omp(const Rows<T>& rows, const T* w, int64_t M, int64_t k, bool simple, int num_threads);

}  // namespace sparse_sae
