#include "kernels/dense/dense.h"

#include <Eigen/Core>
#include <algorithm>

#include "kernels/common/parallel.h"

namespace sparse_sae {

template <class T>
void matmul_nt(T* out, const T* x, const T* w, int64_t N, int64_t M, int64_t D, int num_threads) {
    using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    constexpr int64_t kRows = 512, kCols = 2048;
    const int64_t row_blocks = (N + kRows - 1) / kRows, col_blocks = (M + kCols - 1) / kCols;
    parallel_for(row_blocks * col_blocks, num_threads, [&](int64_t task) {
        const int64_t n0 = task % row_blocks * kRows, j0 = task / row_blocks * kCols;
        const int64_t n = std::min(kRows, N - n0), m = std::min(kCols, M - j0);
        const Eigen::Map<const Matrix> a(x + n0 * D, n, D), b(w + j0 * D, m, D);
        Eigen::Map<Matrix, 0, Eigen::OuterStride<>> c(out + n0 * M + j0, n, m, Eigen::OuterStride<>(M));
        c.noalias() = a * b.transpose();
    });
}

template void matmul_nt(float*, const float*, const float*, int64_t, int64_t, int64_t, int);
template void matmul_nt(double*, const double*, const double*, int64_t, int64_t, int64_t, int);

std::string eigen_version() {
    return std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
           std::to_string(EIGEN_MINOR_VERSION);
}

}  // namespace sparse_sae
