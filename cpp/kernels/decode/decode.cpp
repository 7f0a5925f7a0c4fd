#include "kernels/decode/decode.h"

#include <algorithm>

#include "kernels/common/panels.h"
#include "kernels/common/visits.h"

namespace sparse_sae {
namespace {

constexpr int64_t kRowBlock = 16;

// While one group of rows is added, the beginnings of the next are on their way, and the hardware goes on from there.
template <class T>
void add_codes(T* out, const CodesView<T>& codes, int64_t n, const T* w, int64_t D) {
    constexpr int64_t kGroup = 8, kLine = 64 / sizeof(T), kLines = 8;
    const T* rows[kGroup];
    const int64_t end = codes.indptr[n + 1], last = codes.indptr[codes.n_rows];
    for (int64_t e = codes.indptr[n]; e < end; e += kGroup) {
        const int64_t count = std::min(kGroup, end - e);
        for (int64_t i = 0; i < count; ++i) rows[i] = w + codes.indices[e + i] * D;
        for (int64_t next = e + kGroup; next < std::min(last, e + 2 * kGroup); ++next)
            for (int64_t d = 0; d < std::min(D, kLines * kLine); d += kLine)
                __builtin_prefetch(w + codes.indices[next] * D + d);
        add_rows(out, codes.values + e, rows, count, D);
    }
}

template <class Task>
void for_rows(int64_t N, int num_threads, Task task) {
    parallel_for((N + kRowBlock - 1) / kRowBlock, num_threads, [&](int64_t block) {
        for (int64_t n = block * kRowBlock; n < std::min(N, (block + 1) * kRowBlock); ++n) task(n);
    });
}

template <class T>
void project(T* out, const CodesView<T>& codes, int64_t n, const T* grad, const T* w, int64_t D) {
    const int64_t first = codes.indptr[n];
    dot_many(out + first, grad, codes.indptr[n + 1] - first, D,
             [&](int64_t i) { return w + codes.indices[first + i] * D; });
}

// With many codes a row: through the latents in ranges that stay in the cache while a block of rows visits them.
template <class T>
void project_by_range(T* out, const CodesView<T>& codes, const T* grad, const T* w, int64_t M, int64_t D,
                      int num_threads) {
    const int64_t rows = visiting_rows(codes.n_rows);
    parallel_for((codes.n_rows + rows - 1) / rows, num_threads, [&](int64_t block) {
        const int64_t n0 = block * rows, n1 = std::min(codes.n_rows, n0 + rows);
        std::vector<int32_t> at(codes.indptr + n0, codes.indptr + n1);
        for (int64_t j1 = kVisitedLatents; j1 < M + kVisitedLatents; j1 += kVisitedLatents)
            for (int64_t n = n0; n < n1; ++n) {
                const int32_t from = at[n - n0];
                int32_t& to = at[n - n0];
                while (to < codes.indptr[n + 1] && codes.indices[to] < j1) ++to;
                dot_many(out + from, grad + n * D, to - from, D,
                         [&](int64_t i) { return w + codes.indices[from + i] * D; });
            }
    });
}

// out (N, D) += codes . w, with many codes for each latent that occurs; only these enter the panels.
template <class T>
void add_codes_by_panel(T* out, const CodesView<T>& codes, const T* w, int64_t M, int64_t D, int num_threads) {
    const int64_t nnz = codes.indptr[codes.n_rows];
    std::vector<int32_t> place(static_cast<std::size_t>(M), 0), occurring;
    for (int64_t e = 0; e < nnz; ++e) place[codes.indices[e]] = 1;
    for (int64_t j = 0; j < M; ++j)
        if (place[j]) {
            place[j] = static_cast<int32_t>(occurring.size());
            occurring.push_back(static_cast<int32_t>(j));
        }
    const int64_t rows = static_cast<int64_t>(occurring.size());
    const Sums<T> sums(codes.indptr, codes.n_rows, rows, num_threads, [&](int32_t e) {
        const int64_t row = place[codes.indices[e]];
        return Term<T>{row, row, codes.values[e]};
    });
    parallel_for(panel_count<T>(D), num_threads, [&](int64_t p) {
        const Buffer<T> panel = buffer<T>(rows * kPanelCols<T>);
        pack_panel(panel.get(), w, occurring.data(), rows, D, p * kPanelCols<T>);
        sums.add(out, D, p * kPanelCols<T>, panel.get());
    });
    for_rows(static_cast<int64_t>(sums.few.size()), num_threads, [&](int64_t i) {
        const int64_t n = sums.few[i];
        add_codes(out + n * D, codes, n, w, D);
    });
}

template <class T>
bool many(const CodesView<T>& codes, int64_t M) {
    return codes.indptr[codes.n_rows] >= kPanelReuse * std::max(M, codes.n_rows);
}

}  // namespace

template <class T>
void decode(T* out, const CodesView<T>& codes, const T* w, const T* bias, int64_t M, int64_t D, int num_threads) {
    const bool by_panel = many(codes, M);
    for_rows(codes.n_rows, num_threads, [&](int64_t n) {
        T* row = out + n * D;
        if (bias)
            std::copy_n(bias, D, row);
        else
            std::fill_n(row, D, T(0));
        if (!by_panel) add_codes(row, codes, n, w, D);
    });
    if (by_panel) add_codes_by_panel(out, codes, w, M, D, num_threads);
}

template <class T>
void code_grad(T* out, const CodesView<T>& codes, const T* grad, const T* w, int64_t M, int64_t D, int num_threads) {
    if (many(codes, M)) return project_by_range(out, codes, grad, w, M, D, num_threads);
    for_rows(codes.n_rows, num_threads, [&](int64_t n) { project(out, codes, n, grad + n * D, w, D); });
}

template <class T>
void decode_residual(T* residual, T* projected, T* squared, const CodesView<T>& codes, const T* w, const T* target,
                     int64_t M, int64_t D, int num_threads) {
    const bool by_panel = many(codes, M);
    for_rows(codes.n_rows, num_threads, [&](int64_t n) {
        T* row = residual + n * D;
        for (int64_t d = 0; d < D; ++d) row[d] = -target[n * D + d];
        if (by_panel) return;
        add_codes(row, codes, n, w, D);
        squared[n] = dot(row, row, D);
        project(projected, codes, n, row, w, D);
    });
    if (!by_panel) return;
    add_codes_by_panel(residual, codes, w, M, D, num_threads);
    for_rows(codes.n_rows, num_threads, [&](int64_t n) { squared[n] = dot(residual + n * D, residual + n * D, D); });
    project_by_range(projected, codes, residual, w, M, D, num_threads);
}

#define INSTANTIATE(T)                                                                           \
    template void decode(T*, const CodesView<T>&, const T*, const T*, int64_t, int64_t, int);    \
    template void code_grad(T*, const CodesView<T>&, const T*, const T*, int64_t, int64_t, int); \
    template void decode_residual(T*, T*, T*, const CodesView<T>&, const T*, const T*, int64_t, int64_t, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
