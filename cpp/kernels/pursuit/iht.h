// Codes of at most k latents by projected gradient steps.
#pragma once

#include "kernels/common/rows.h"

namespace sparse_sae {

// Iterative hard thresholding (Blumensath & Davies 2009) over z >= 0, with momentum. For each row of x, from z = 0,
// n_steps times: y = z + i / (i + 3) (z - the z before); z = the k largest positive elements of y + step (x - y w) w^T
// (ties: the lower latent). Then the codes are refitted by least squares over z >= 0 on the latents of the last step.
// A row ends early where a step moves nothing. Rows of w (M, D) have norm 1, or 0; others throw. A row whose squared
// norm is not finite gets no codes. Zeros are dropped.
//
// simple: as for encode_lasso, whose ways these are: the same bits.
template <class T>
Codes<T> encode_iht(const Rows<T>& rows, const T* w, int64_t M, int64_t k, T step, int64_t n_steps, bool simple,
                    int num_threads);

}  // namespace sparse_sae
