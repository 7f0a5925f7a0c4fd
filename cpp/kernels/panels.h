// Sums of many rows of a matrix, panel by panel: for when every row is wanted many times.
//
// Added row by row, each term of a sum is read from whatever cache the whole matrix fits. Cut into panels of a few
// columns, a panel with all its rows fits the L2 cache, and every sum visits it there. The terms of a sum are
// added in the same order as add_rows (simd.h) adds them, so the two ways give the same bits and the choice between
// them is free. It pays from kPanelReuse uses of a row on; below, packing the panels costs more than it saves.
#pragma once

#include "kernels/buffer.h"
#include "kernels/parallel.h"
#include "kernels/tile.h"

namespace sparse_sae {

inline constexpr int64_t kPanelReuse = 32;
template <class T>
inline constexpr int kPanelCols = kTileCols<T>;

// One term of a sum: weight times a row, which is named by where it begins in a panel.
template <class T>
struct Term {
    std::uint32_t at;  // row * kPanelCols
    T weight;
};

// Sum r is that of terms [start[r], start[r + 1]), in this order.
template <class T>
struct Sums {
    const int32_t* start;
    Buffer<Term<T>> terms;
};

template <class T>
int64_t panel_count(int64_t D) {
    return (D + kPanelCols<T> - 1) / kPanelCols<T>;
}

template <class T>
std::uint32_t panel_row(int64_t row) {
    return static_cast<std::uint32_t>(row * kPanelCols<T>);
}

// panel (rows, kPanelCols) = columns of matrix (., D) from d0 on, zeros beyond D; of the rows named in `chosen`, or of
// the first ones where it is null.
template <class T>
void pack_panel(T* panel, const T* matrix, const int32_t* chosen, int64_t rows, int64_t D, int64_t d0) {
    constexpr int C = kPanelCols<T>;
    constexpr int64_t kAhead = 16;  // the hardware does not foresee a new page every other row
    const int64_t n = std::min<int64_t>(C, D - d0);
    for (int64_t r = 0; r < rows; ++r) {
        const auto from = [&](int64_t i) { return matrix + (chosen ? chosen[i] : i) * D + d0; };
        if (r + kAhead < rows) __builtin_prefetch(from(r + kAhead));
        const T* row = from(r);
        for (int64_t c = 0; c < n; ++c) panel[r * C + c] = row[c];
        for (int64_t c = n; c < C; ++c) panel[r * C + c] = 0;
    }
}

// out (count, D) += sums [first, first + count), in columns [d0, d0 + kPanelCols).
template <class T>
void add_panel(T* out, int64_t D, int64_t d0, const Sums<T>& sums, int64_t first, int64_t count, const T* panel) {
    constexpr int L = kLanes<T>, C = kPanelCols<T>;
    const int64_t n = std::min<int64_t>(C, D - d0);
    for (int64_t i = 0; i < count; ++i) {
        alignas(64) T edge[C] = {};
        std::copy_n(out + i * D + d0, n, edge);
        vec<T> low = load(edge), high = load(edge + L);
        const Term<T>*term = sums.terms.get() + sums.start[first + i],
              *end = sums.terms.get() + sums.start[first + i + 1];
        for (; term != end; ++term) {
            const T* row = panel + term->at;
            low += term->weight * load(row);
            high += term->weight * load(row + L);
        }
        store(edge, low);
        store(edge + L, high);
        std::copy_n(edge, n, out + i * D + d0);
    }
}

// All panels of a matrix.
template <class T>
struct Panels {
    int64_t rows;
    Buffer<T> data;

    Panels(const T* matrix, int64_t n, int64_t D, int num_threads)
        : rows(n), data(buffer<T>(n * panel_count<T>(D) * kPanelCols<T>)) {
        parallel_for(panel_count<T>(D), num_threads,
                     [&](int64_t p) { pack_panel(panel(p), matrix, nullptr, rows, D, p * kPanelCols<T>); });
    }
    T* panel(int64_t p) const { return data.get() + p * rows * kPanelCols<T>; }
};

}  // namespace sparse_sae
