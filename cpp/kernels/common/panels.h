// Sums of many rows of a matrix, panel by panel: for when every row is wanted many times.
//
// Added row by row, each term of a sum is read from whatever cache the whole matrix fits. Cut into panels of a few
// columns, and each panel into ranges of rows, what the terms read fits the L1 cache while all sums visit it. A sum
// rests in a block of its own between ranges, so a visit pays once it brings several terms: sums with fewer are left
// to the caller. The terms of a sum are added in the same order as add_rows (simd.h) adds them, so the ways give the
// same bits and the choice between them is free. Panels pay from kPanelReuse uses of a row on; below,
// packing them costs more than it saves.
#pragma once

#include <utility>

#include "kernels/common/buffer.h"
#include "kernels/common/parallel.h"
#include "kernels/common/simd.h"

namespace sparse_sae {

inline constexpr int64_t kPanelReuse = 32;
template <class T>
inline constexpr int64_t kPanelCols = 128 / sizeof(T);
// A range and the sums passing by share an L1 cache of 32 KB.
inline constexpr int64_t kRangeRows = (24 << 10) / 128;

template <class T>
int64_t panel_count(int64_t D) {
    return (D + kPanelCols<T> - 1) / kPanelCols<T>;
}

// panel (rows, kPanelCols) = columns of matrix (., D) from d0 on, zeros beyond D; of the rows named in `chosen`, or of
// the first ones where it is null.
template <class T>
void pack_panel(T* panel, const T* matrix, const int32_t* chosen, int64_t rows, int64_t D, int64_t d0) {
    constexpr int64_t C = kPanelCols<T>;
    constexpr int64_t kAhead = 16;  // the hardware does not foresee a new page every other row
    const int64_t n = std::min(C, D - d0);
    for (int64_t r = 0; r < rows; ++r) {
        const auto from = [&](int64_t i) { return matrix + (chosen ? chosen[i] : i) * D + d0; };
        if (r + kAhead < rows) {
            __builtin_prefetch(from(r + kAhead));
            __builtin_prefetch(from(r + kAhead) + n - 1);
        }
        const T* row = from(r);
        for (int64_t c = 0; c < n; ++c) panel[r * C + c] = row[c];
        for (int64_t c = n; c < C; ++c) panel[r * C + c] = 0;
    }
}

// One term of a sum: weight times a row of the panel. Within a sum, `position` rises; it says which range the term
// belongs to, and differs from the row where several positions share one.
template <class T>
struct Term {
    int64_t position, row;
    T weight;
};

// Many sums over one matrix, ready to be added panel by panel. Terms lie in the order in which they are visited: by
// block of sums, then by range, then by sum.
template <class T>
class Sums {
  public:
    std::vector<int32_t> few;  // sums that are left to be added row by row

    // Sum i has terms [start[i], start[i + 1]); term(e) gives one, with a position below `positions`.
    template <class TermOf>
    Sums(const int32_t* start, int64_t count, int64_t positions, int num_threads, TermOf term)
        : ranges_((positions + kRangeRows - 1) / kRangeRows), packed_(buffer<Packed>(start[count] - start[0])) {
        constexpr int64_t kFew = 4;       // terms in a range
        std::vector<int32_t> visited{0};  // where the terms of each visiting sum would begin
        for (int64_t i = 0; i < count; ++i) {
            const int32_t length = start[i + 1] - start[i];
            if (length < kFew * ranges_) {
                few.push_back(static_cast<int32_t>(i));
            } else {
                visiting_.push_back(static_cast<int32_t>(i));
                visited.push_back(visited.back() + length);
            }
        }
        split_.resize(static_cast<std::size_t>(ranges_ * blocks() * kBlock + 1));
        parallel_for(blocks(), num_threads, [&](int64_t block) {
            int32_t* split = split_.data() + block * ranges_ * kBlock;
            const auto each = [&](auto use) {
                for (int64_t s = block * kBlock; s < end(block); ++s)
                    for (int32_t e = start[visiting_[s]]; e < start[visiting_[s] + 1]; ++e) {
                        const Term<T> t = term(e);
                        use(split[t.position / kRangeRows * kBlock + s - block * kBlock], t);
                    }
            };
            std::vector<int32_t> next(static_cast<std::size_t>(ranges_ * kBlock), 0);
            each([&](int32_t& at, const Term<T>&) { ++next[&at - split]; });
            int32_t at = visited[block * kBlock];
            for (int64_t segment = 0; segment < ranges_ * kBlock; ++segment) {
                split[segment] = at;
                at += std::exchange(next[segment], at);
            }
            each([&](int32_t& first, const Term<T>& t) {
                packed_[next[&first - split]++] = {static_cast<std::uint32_t>(t.row * kPanelCols<T>), t.weight};
            });
        });
        split_.back() = visited.back();
    }

    // out (count, D) += the sums but `few`, in columns [d0, d0 + kPanelCols).
    void add(T* out, int64_t D, int64_t d0, const T* panel) const {
        constexpr int64_t C = kPanelCols<T>;
        const int64_t n = std::min(C, D - d0);
        const Buffer<T> resting = buffer<T>(kBlock * C);
        std::fill_n(resting.get(), kBlock * C, T(0));
        for (int64_t block = 0; block < blocks(); ++block) {
            const int64_t first = block * kBlock, sums = end(block) - first;
            for (int64_t s = 0; s < sums; ++s)
                std::copy_n(out + visiting_[first + s] * D + d0, n, resting.get() + s * C);
            for (int64_t range = 0; range < ranges_; ++range) {
                const int32_t* split = split_.data() + (block * ranges_ + range) * kBlock;
                for (int64_t s = 0; s < sums; ++s) add_terms(resting.get() + s * C, split[s], split[s + 1], panel);
            }
            for (int64_t s = 0; s < sums; ++s)
                std::copy_n(resting.get() + s * C, n, out + visiting_[first + s] * D + d0);
        }
    }

  private:
    static constexpr int64_t kBlock = 512;  // sums at rest, in the L2 cache
    struct Packed {
        std::uint32_t at;  // where its row begins in a panel
        T weight;
    };
    std::vector<int32_t> visiting_;
    int64_t ranges_;
    std::vector<int32_t> split_;  // (blocks, ranges, kBlock): where the terms of a visit begin
    Buffer<Packed> packed_;

    int64_t blocks() const { return (static_cast<int64_t>(visiting_.size()) + kBlock - 1) / kBlock; }
    int64_t end(int64_t block) const { return std::min(static_cast<int64_t>(visiting_.size()), (block + 1) * kBlock); }

    // sum (kPanelCols, aligned) += terms [e, end).
    void add_terms(T* sum, int32_t e, int32_t end, const T* panel) const {
        constexpr int L = kLanes<T>, V = static_cast<int>(kPanelCols<T>) / L;
        if (e == end) return;
        vec<T> v[V];
        for (int a = 0; a < V; ++a) v[a] = load(sum + a * L);
        for (; e < end; ++e) {
            const T* row = panel + packed_[e].at;
            const T weight = packed_[e].weight;
            for (int a = 0; a < V; ++a) v[a] += weight * load(row + a * L);
        }
        for (int a = 0; a < V; ++a) store(sum + a * L, v[a]);
    }
};

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
