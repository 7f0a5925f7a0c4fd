// Dense products, by Eigen: for codes too dense to be called sparse, and as the yardstick of the benchmarks.
#pragma once

#include <string>

#include "kernels/common/types.h"

namespace sparse_sae {

// out (N, M) = x (N, D) . w (M, D)^T. Rows are cut into fixed blocks, so threads do not change the result.
template <class T>
void matmul_nt(T* out, const T* x, const T* w, int64_t N, int64_t M, int64_t D, int num_threads);

std::string eigen_version();

}  // namespace sparse_sae
