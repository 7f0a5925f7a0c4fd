// Adam on whole rows, alone and fused with the gradients that feed it.
#pragma once

#include "kernels/update/latents.h"

namespace sparse_sae {

struct Adam {
    double lr, beta1, beta2, eps;
    int64_t step;  // counted from 1
    double scale;  // multiplies every gradient first (gradient clipping)
};

// Kingma & Ba 2015, algorithm 1, on w (M, D) with moments m, v (M, D) and gradient grad (M, D).
// unit_norm: rows of w are unit vectors; the gradient's part along the row is removed first, and the row is
// brought back to unit norm afterwards (Towards Monosemanticity, appendix).
template <class T>
void adam_rows(T* w, T* m, T* v, const T* grad, const Adam& how, bool unit_norm, int64_t M, int64_t D, int num_threads);

// One weight matrix with its moments and what its gradient is made of:
//   grad[j] = sum over entries e of latent j of values[e] * dense[row of e mod n_dense]
//           + along[j] * w[j]  +  outer[j] * common          (each part optional: null)
template <class T>
struct RowUpdate {
    T *w, *m, *v;
    const T* values;
    const T* dense;
    int64_t n_dense;
    const T* along;   // (M) or null
    const T* outer;   // (M) or null
    const T* common;  // (D), with outer
    bool unit_norm;
    int64_t D;
};

// weight_grad and adam_rows in one pass per latent, so that no gradient matrix is stored. Bit-identical to the
// two run one after the other, but for which NaN a NaN is: of two that are added, a processor keeps sign and payload of
// the first, and the compiler chooses which that is wherever it inlines the sum. For any number of threads all bits are
// equal.
template <class T>
void update_rows(const RowUpdate<T>* updates, int count, const ByLatent& order, const Adam& how, int64_t M,
                 int num_threads);

// Sum over all rows and updates of |gradient|^2, after the projection that unit_norm asks for; for clipping.
template <class T>
double grad_squared_norm(const RowUpdate<T>* updates, int count, const ByLatent& order, int64_t M, int num_threads);

}  // namespace sparse_sae
