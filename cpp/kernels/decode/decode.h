// Codes times the decoder, and the gradient that comes back.
#pragma once

#include "kernels/common/types.h"

namespace sparse_sae {

// out (N, D) = codes . w (M, D) + bias (D, or null). Each position adds its latents in ascending order.
template <class T>
void decode(T* out, const CodesView<T>& codes, const T* w, const T* bias, int64_t M, int64_t D, int num_threads);

// out (nnz)[e] = dot(grad (N, D)[row of e], w (M, D)[latent of e]): the gradient of the codes, where active.
template <class T>
void code_grad(T* out, const CodesView<T>& codes, const T* grad, const T* w, int64_t M, int64_t D, int num_threads);

// Both in one pass, while the decoder rows are in cache:
//   residual (N, D) = codes . w - target (N, D);   projected (nnz) = code_grad of residual;
//   squared (N) = |residual[n]|^2
template <class T>
void decode_residual(T* residual, T* projected, T* squared, const CodesView<T>& codes, const T* w, const T* target,
                     int64_t M, int64_t D, int num_threads);

}  // namespace sparse_sae
