#include "kernels/latents.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace sparse_sae {

constexpr int64_t kLatentBlock = 32;

ByLatent by_latent(const int32_t* indptr, const int32_t* indices, int64_t n_rows, int64_t M) {
    ByLatent order;
    const int64_t nnz = indptr[n_rows];
    order.start.assign(static_cast<std::size_t>(M) + 1, 0);
    order.row.resize(static_cast<std::size_t>(nnz));
    order.entry.resize(static_cast<std::size_t>(nnz));
    for (int64_t e = 0; e < nnz; ++e) ++order.start[indices[e] + 1];
    for (int64_t j = 0; j < M; ++j) order.start[j + 1] += order.start[j];
    std::vector<int32_t> next(order.start.begin(), order.start.end() - 1);
    for (int64_t n = 0; n < n_rows; ++n)
        for (int64_t e = indptr[n]; e < indptr[n + 1]; ++e) {
            const int32_t at = next[indices[e]]++;
            order.row[at] = static_cast<int32_t>(n);
            order.entry[at] = static_cast<int32_t>(e);
        }
    return order;
}

template <class T>
void add_weight_grad(T* out, const ByLatent& order, int64_t j, const T* values, const T* dense, int64_t n_dense, int64_t D) {
    constexpr int64_t kGroup = 16;
    const T* rows[kGroup];
    T a[kGroup];
    for (int64_t at = order.start[j]; at < order.start[j + 1]; at += kGroup) {
        const int64_t count = std::min<int64_t>(kGroup, order.start[j + 1] - at);
        for (int64_t i = 0; i < count; ++i) {
            rows[i] = dense + (order.row[at + i] % n_dense) * D;
            a[i] = values[order.entry[at + i]];
        }
        add_rows(out, a, rows, count, D);
    }
}

template <class T>
void weight_grad(T* out, const ByLatent& order, const T* values, const T* dense, int64_t n_dense, int64_t M, int64_t D,
                 int num_threads) {
    parallel_for((M + kLatentBlock - 1) / kLatentBlock, num_threads, [&](int64_t block) {
        for (int64_t j = block * kLatentBlock; j < std::min(M, (block + 1) * kLatentBlock); ++j) {
            std::fill_n(out + j * D, D, T(0));
            add_weight_grad(out + j * D, order, j, values, dense, n_dense, D);
        }
    });
}

template <class T>
void latent_sums(T* out, const ByLatent& order, const T* values, int64_t M, int num_threads) {
    constexpr int64_t kBlock = 1024;
    parallel_for((M + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
        for (int64_t j = block * kBlock; j < std::min(M, (block + 1) * kBlock); ++j) {
            T sum = 0;
            for (int64_t at = order.start[j]; at < order.start[j + 1]; ++at) sum += values[order.entry[at]];
            out[j] = sum;
        }
    });
}

#define INSTANTIATE(T)                                                                                            \
    template void add_weight_grad(T*, const ByLatent&, int64_t, const T*, const T*, int64_t, int64_t);            \
    template void weight_grad(T*, const ByLatent&, const T*, const T*, int64_t, int64_t, int64_t, int);           \
    template void latent_sums(T*, const ByLatent&, const T*, int64_t, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
