#include "kernels/decode.h"

#include <algorithm>

#include "kernels/parallel.h"
#include "kernels/simd.h"

namespace sparse_sae {
namespace {

constexpr int64_t kRowBlock = 16;

template <class T>
void add_codes(T* out, const CodesView<T>& codes, int64_t n, const T* w, int64_t D) {
    constexpr int64_t kGroup = 16;
    const T* rows[kGroup];
    const int64_t end = codes.indptr[n + 1];
    for (int64_t e = codes.indptr[n]; e < end; e += kGroup) {
        const int64_t count = std::min(kGroup, end - e);
        for (int64_t i = 0; i < count; ++i) rows[i] = w + codes.indices[e + i] * D;
        add_rows(out, codes.values + e, rows, count, D);
    }
}

template <class T>
void project(T* out, const CodesView<T>& codes, int64_t n, const T* grad, const T* w, int64_t D) {
    const int64_t first = codes.indptr[n];
    dot_many(out + first, grad, codes.indptr[n + 1] - first, D,
             [&](int64_t i) { return w + codes.indices[first + i] * D; });
}

template <class Task>
void for_rows(int64_t N, int num_threads, Task task) {
    parallel_for((N + kRowBlock - 1) / kRowBlock, num_threads, [&](int64_t block) {
        for (int64_t n = block * kRowBlock; n < std::min(N, (block + 1) * kRowBlock); ++n) task(n);
    });
}

}  // namespace

template <class T>
void decode(T* out, const CodesView<T>& codes, const T* w, const T* bias, int64_t D, int num_threads) {
    for_rows(codes.n_rows, num_threads, [&](int64_t n) {
        T* row = out + n * D;
        if (bias)
            std::copy_n(bias, D, row);
        else
            std::fill_n(row, D, T(0));
        add_codes(row, codes, n, w, D);
    });
}

template <class T>
void code_grad(T* out, const CodesView<T>& codes, const T* grad, const T* w, int64_t D, int num_threads) {
    for_rows(codes.n_rows, num_threads, [&](int64_t n) { project(out, codes, n, grad + n * D, w, D); });
}

template <class T>
void decode_residual(T* residual, T* projected, T* squared, const CodesView<T>& codes, const T* w, const T* target,
                     int64_t D, int num_threads) {
    for_rows(codes.n_rows, num_threads, [&](int64_t n) {
        T* row = residual + n * D;
        for (int64_t d = 0; d < D; ++d) row[d] = -target[n * D + d];
        add_codes(row, codes, n, w, D);
        squared[n] = dot(row, row, D);
        project(projected, codes, n, row, w, D);
    });
}

#define INSTANTIATE(T)                                                                  \
    template void decode(T*, const CodesView<T>&, const T*, const T*, int64_t, int);    \
    template void code_grad(T*, const CodesView<T>&, const T*, const T*, int64_t, int); \
    template void decode_residual(T*, T*, T*, const CodesView<T>&, const T*, const T*, int64_t, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
