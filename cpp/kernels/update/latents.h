// Codes seen from the latents: which rows activated each of them. Gradients of weights walk this.
#pragma once

#include "kernels/common/types.h"

namespace sparse_sae {

// CSR -> CSC by counting sort. Entries [start[j], start[j + 1]) belong to latent j, in ascending order of rows;
// row (nnz) is the row of each, entry (nnz) its position in the CSR arrays.
struct ByLatent {
    int64_t n_rows;
    std::vector<int32_t> start, row, entry;
};
ByLatent by_latent(const int32_t* indptr, const int32_t* indices, int64_t n_rows, int64_t M, int num_threads);

// out (M, D)[j] = sum over entries e of latent j of values[e] * dense[row of e mod n_dense].
// The modulus serves codes that are several blocks of rows stacked over one input (AuxK, Matryoshka).
template <class T>
void weight_grad(T* out, const ByLatent& order, const T* values, const T* dense, int64_t n_dense, int64_t M, int64_t D,
                 int num_threads);

// row mod n_dense, for a row that is a few times n_dense at most: division is slow.
inline int64_t dense_row(int64_t row, int64_t n_dense) {
    while (row >= n_dense) row -= n_dense;
    return row;
}

// The same for entries [begin, end) of one latent, added to out (D).
template <class T>
void add_weight_grad(T* out, const ByLatent& order, int64_t begin, int64_t end, const T* values, const T* dense,
                     int64_t n_dense, int64_t D);

// out (M)[j] = sum of values over the entries of latent j, in order.
template <class T>
void latent_sums(T* out, const CodesView<T>& codes, int64_t M);

}  // namespace sparse_sae
