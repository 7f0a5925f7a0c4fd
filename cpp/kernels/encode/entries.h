// One code entry, its order, and the gathering of rows of entries into CSR.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/common/parallel.h"
#include "kernels/common/rows.h"
#include "kernels/common/visits.h"
#include "kernels/encode/screen/tile.h"

namespace sparse_sae {

template <class T>
struct Entry {
    T value;
    int32_t latent;
};

// Larger first; equal values in the order of the latents. NaN must have been removed.
template <class T>
inline bool ranks_before(const Entry<T>& a, const Entry<T>& b) {
    return a.value > b.value || (a.value == b.value && a.latent < b.latent);
}

// Latents scored at a time: a multiple of kDotRows on every level, so that none is left for a dot product alone.
inline constexpr int64_t kScored = 48;

// Canonical pre-activations of the named latents for one row.
template <class T>
void score(Entry<T>* entries, int64_t count, const T* x, const Dictionary<T>& dict) {
    static_assert(kScored % kDotRows<T> == 0);
    T out[kScored];
    for (int64_t i = 0; i < count; i += kScored) {
        const int64_t n = std::min(kScored, count - i);
        dot_many(out, x, n, dict.D, [&](int64_t e) { return dict.row(entries[i + e].latent); });
        for (int64_t e = 0; e < n; ++e) entries[i + e].value = out[e] + dict.bias(entries[i + e].latent);
    }
}

// The same for n rows at once, entries[i] being count[i] entries of row x[i], sorted by latent. Goes through the
// latents in ranges that stay in the cache while all rows visit them, where a row has several in each.
template <class T>
void score_block(Entry<T>* const* entries, const int64_t* count, const T* x, int64_t n, const Dictionary<T>& dict) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) total += count[i];
    const int64_t range = total * kVisitedLatents >= 2 * n * dict.M ? kVisitedLatents : dict.M;
    std::vector<int64_t> at(static_cast<std::size_t>(n), 0);
    for (int64_t j1 = range, left = n; left > 0; j1 += range) {
        left = 0;
        for (int64_t i = 0; i < n; ++i) {
            const int64_t from = at[i];
            while (at[i] < count[i] && entries[i][at[i]].latent < j1) ++at[i];
            if (at[i] > from) score(entries[i] + from, at[i] - from, x + i * dict.D, dict);
            left += at[i] < count[i];
        }
    }
}

// So few that tiles would be mostly padding: then latents are scored one by one, shared out to the threads.
inline bool few_rows(int64_t N) { return N <= kTileRows / 2; }

// use(n, entries) gets all pre-activations of row n, in the order of the latents, in memory of the calling thread that
// stays for the next call: a row at a time, allocating would cost as much as selecting.
template <class T, class Use>
void score_few_rows(const Rows<T>& rows, const Dictionary<T>& dict, int num_threads, Use use) {
    constexpr int64_t kBlockBytes = 256 << 10;  // of weights in a task: enough to be worth waking a thread
    const int64_t fit = kBlockBytes / (dict.D * static_cast<int64_t>(sizeof(T))), block = (fit / kScored + 1) * kScored;
    thread_local std::vector<T> x;
    thread_local std::vector<Entry<T>> all;
    x.resize(static_cast<std::size_t>(dict.D));
    for (int64_t n = 0; n < rows.N; ++n) {
        rows.read(x.data(), n);
        all.resize(static_cast<std::size_t>(dict.M));
        const T* row = x.data();
        Entry<T>* entries = all.data();
        parallel_for((dict.M + block - 1) / block, num_threads, [&, row, entries](int64_t task) {
            const int64_t j0 = task * block, j1 = std::min(dict.M, j0 + block);
            for (int64_t j = j0; j < j1; ++j) entries[j].latent = static_cast<int32_t>(j);
            score(entries + j0, j1 - j0, row, dict);
        });
        use(n, all);
    }
}

// Rows of entries, each sorted by latent, into CSR. row(n) -> pair of pointers.
template <class T, class Row>
Codes<T> gather_codes(int64_t N, int num_threads, Row row) {
    Codes<T> codes;
    codes.indptr.resize(static_cast<std::size_t>(N) + 1);
    int64_t total = 0;
    for (int64_t n = 0; n < N; ++n) {
        codes.indptr[n] = static_cast<int32_t>(total);
        const auto [begin, end] = row(n);
        total += end - begin;
        if (total > INT32_MAX) throw std::length_error("codes: more than 2**31 - 1 entries; encode fewer rows at once");
    }
    codes.indptr[N] = static_cast<int32_t>(total);
    codes.indices.resize(static_cast<std::size_t>(total));
    codes.values.resize(static_cast<std::size_t>(total));
    constexpr int64_t kBlock = 512;
    parallel_for((N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
        for (int64_t n = block * kBlock; n < std::min(N, (block + 1) * kBlock); ++n) {
            int64_t at = codes.indptr[n];
            const auto [begin, end] = row(n);
            for (auto e = begin; e != end; ++e, ++at) {
                codes.indices[at] = e->latent;
                codes.values[at] = e->value;
            }
        }
    });
    return codes;
}

}  // namespace sparse_sae
