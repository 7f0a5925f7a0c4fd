#include "kernels/update/latents.h"

#include <algorithm>

#include "kernels/common/parallel.h"
#include "kernels/common/simd.h"

namespace sparse_sae {

constexpr int64_t kLatentBlock = 32;

ByLatent by_latent(const int32_t* indptr, const int32_t* indices, int64_t n_rows, int64_t M, int num_threads) {
    ByLatent order{n_rows, {}, {}, {}};
    const int64_t nnz = indptr[n_rows];
    order.start.assign(static_cast<std::size_t>(M) + 1, 0);
    order.row.resize(static_cast<std::size_t>(nnz));
    order.entry.resize(static_cast<std::size_t>(nnz));
    // Parts of the rows are counted and placed independently; next[part][j] is where the part's first entry of j goes.
    const int64_t parts = nnz < 16 * M ? 1 : 4, per_part = (n_rows + parts - 1) / parts;
    std::vector<int32_t> next(static_cast<std::size_t>(parts * M), 0);
    const auto begin = [&](int64_t part) { return std::min(n_rows, part * per_part); };
    parallel_for(parts, num_threads, [&](int64_t part) {
        int32_t* mine = next.data() + part * M;
        for (int64_t e = indptr[begin(part)]; e < indptr[begin(part + 1)]; ++e) ++mine[indices[e]];
    });
    int32_t total = 0;
    for (int64_t j = 0; j < M; ++j) {
        order.start[j] = total;
        for (int64_t part = 0; part < parts; ++part) {
            const int32_t count = next[part * M + j];
            next[part * M + j] = total;
            total += count;
        }
    }
    order.start[M] = total;
    parallel_for(parts, num_threads, [&](int64_t part) {
        int32_t* mine = next.data() + part * M;
        for (int64_t n = begin(part); n < begin(part + 1); ++n)
            for (int64_t e = indptr[n]; e < indptr[n + 1]; ++e) {
                const int32_t at = mine[indices[e]]++;
                order.row[at] = static_cast<int32_t>(n);
                order.entry[at] = static_cast<int32_t>(e);
            }
    });
    return order;
}

template <class T>
void add_weight_grad(T* out, const ByLatent& order, int64_t begin, int64_t end, const T* values, const T* dense,
                     int64_t n_dense, int64_t D) {
    constexpr int64_t kGroup = 16;
    const T* rows[kGroup];
    T a[kGroup];
    for (int64_t at = begin; at < end; at += kGroup) {
        const int64_t count = std::min<int64_t>(kGroup, end - at);
        for (int64_t i = 0; i < count; ++i) {
            rows[i] = dense + dense_row(order.row[at + i], n_dense) * D;
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
            add_weight_grad(out + j * D, order, order.start[j], order.start[j + 1], values, dense, n_dense, D);
        }
    });
}

template <class T>
void latent_sums(T* out, const CodesView<T>& codes, int64_t M) {
    std::fill_n(out, M, T(0));
    const int64_t end = codes.indptr[codes.n_rows];
    for (int64_t e = 0; e < end; ++e) out[codes.indices[e]] += codes.values[e];
}

#define INSTANTIATE(T)                                                                                          \
    template void add_weight_grad(T*, const ByLatent&, int64_t, int64_t, const T*, const T*, int64_t, int64_t); \
    template void weight_grad(T*, const ByLatent&, const T*, const T*, int64_t, int64_t, int64_t, int);         \
    template void latent_sums(T*, const CodesView<T>&, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
