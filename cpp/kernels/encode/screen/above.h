// What the float screen keeps where a threshold decides: one for each latent, or one for the whole batch.
#pragma once

#include "kernels/encode/entries.h"

namespace sparse_sae {

template <class T>
using RowEntries = std::vector<std::vector<Entry<T>>>;

// Everything that may exceed its own threshold, with the approximation as value.
template <class T>
struct AboveThreshold {
    const Dictionary<T>& dict;
    const T* limit;
    T lowest;
    std::vector<T> margin;
    RowEntries<T> found;

    template <class Screen>
    AboveThreshold(const Dictionary<T>& d, const T* threshold, const Screen& screen)
        : dict(d), limit(threshold), lowest(0), margin(screen.count), found(screen.count) {
        if (limit) {
            lowest = std::numeric_limits<T>::infinity();
            for (int64_t j = 0; j < d.M; ++j) lowest = std::min(lowest, limit[d.at(j)]);
        }
        for (int64_t n = 0; n < screen.count; ++n) margin[n] = screen.bound(n);
    }
    T at(int64_t j) const { return limit ? limit[dict.at(j)] : T(0); }
    T threshold(int64_t n) const { return lowest - margin[n]; }
    void offer(int64_t n, int64_t j0, const T* s, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
            if (!(s[i] < at(j0 + i) - margin[n])) found[n].push_back({s[i], static_cast<int32_t>(j0 + i)});
    }
    void chunk_done(int64_t) {}
};

// Candidates for the `total` largest of the whole block of rows. After each chunk the total-th largest lower
// bound (approximation minus margin) becomes the cut for all rows. The values kept are upper bounds.
template <class T>
struct AboveCommonCut {
    int64_t total;
    T cut = 0;  // on canonical values: only positive ones are wanted
    std::vector<T> margin;
    RowEntries<T> found;

    template <class Screen>
    AboveCommonCut(int64_t most, const Screen& screen) : total(most), margin(screen.count), found(screen.count) {
        for (int64_t n = 0; n < screen.count; ++n) margin[n] = screen.bound(n);
    }
    T threshold(int64_t n) const { return cut - margin[n]; }
    void offer(int64_t n, int64_t j0, const T* s, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
            if (!(s[i] + margin[n] < cut)) found[n].push_back({s[i] + margin[n], static_cast<int32_t>(j0 + i)});
    }
    void chunk_done(int64_t) {
        std::vector<T> lower;
        for (std::size_t n = 0; n < found.size(); ++n)
            for (const auto& e : found[n])
                if (const T least = e.value - 2 * margin[n]; least == least) lower.push_back(least);
        if (static_cast<int64_t>(lower.size()) <= total) return;
        std::nth_element(lower.begin(), lower.begin() + (total - 1), lower.end(), std::greater<T>());
        cut = std::max(cut, lower[total - 1]);
        for (auto& row : found)
            row.erase(std::remove_if(row.begin(), row.end(), [&](const Entry<T>& e) { return e.value < cut; }),
                      row.end());
    }
};

}  // namespace sparse_sae
