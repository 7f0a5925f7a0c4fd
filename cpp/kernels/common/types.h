// Words shared by every kernel.
//
// Letters, used in every comment, docstring and stub of this project:
//   N rows (tokens), D inputs, M latents, K active latents of a row, L named latents of a watch-list.
// Layout: every matrix is row-major and dense. W_enc and W_dec are both (M, D): a latent is one contiguous
// row in each. Codes are CSR (indptr, indices, values) with int32 indices sorted within a row.
// Argument order: outputs, inputs, sizes, then num_threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sparse_sae {

using std::int32_t;
using std::int64_t;

// How rows are stored.
enum class Dtype { float16, bfloat16, float32, float64, int8 };

// Codes a kernel returns: N rows, owned. `fallbacks` counts rows that screening could not decide.
template <class T>
struct Codes {
    std::vector<int32_t> indptr, indices;
    std::vector<T> values;
    int64_t fallbacks = 0;
};

// Codes a kernel reads: views on the caller's arrays.
template <class T>
struct CodesView {
    const int32_t* indptr;
    const int32_t* indices;
    const T* values;
    int64_t n_rows;
};

}  // namespace sparse_sae
