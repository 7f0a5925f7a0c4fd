#include "kernels/pursuit/omp.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/pursuit/correlate.h"
#include "kernels/pursuit/support.h"

namespace sparse_sae {
namespace {

// One row, given its correlations c0 (M) with all latents and the matrix of theirs with each other.
template <class T>
void pursue(Support<T>& s, const T* c0, const std::vector<T>& gram, int64_t M, std::vector<T>& c) {
    const T norm = norm_bound(s.x, s.D), none = -std::numeric_limits<T>::infinity();
    std::vector<T> residual(s.x, s.x + s.D), minus;
    std::vector<const T*> rows;
    while (static_cast<int64_t>(s.latents.size()) < s.k) {
        c.assign(c0, c0 + M);
        s.subtract(c.data(), M, minus, rows, [&](std::size_t i) { return gram.data() + s.latents[i] * M; });
        for (const int32_t j : s.latents) c[j] = none;
        T reach = norm;
        for (const T z : s.z) reach += z;
        const T slack = slack_of(reach, static_cast<int64_t>(s.z.size()), s.D);
        const T limit = std::max(largest(c.data(), M) - 2 * slack, -slack);
        T most = 0;
        int64_t best = -1;
        for (int64_t j = 0; j < M; ++j)
            if (c[j] >= limit)
                if (const T value = dot(residual.data(), s.w + j * s.D, s.D); value > most) most = value, best = j;
        if (best < 0) return;
        s.join(best);
        std::copy_n(s.x, s.D, residual.begin());
        s.subtract(residual.data(), s.D, minus, rows, [&](std::size_t i) { return s.atoms[i]; });
    }
}

// A tile of rows, each step one pass over the dictionary.
template <class T>
void pursue(std::vector<Support<T>>& tile, std::vector<T> residual, const T* w, int64_t M, int64_t D, int64_t k) {
    std::vector<T> most(tile.size()), minus;
    std::vector<int64_t> best(tile.size());
    std::vector<const T*> rows;
    for (int64_t step = 0; step < k; ++step) {
        std::fill(most.begin(), most.end(), T(0));
        std::fill(best.begin(), best.end(), -1);
        correlate(residual.data(), static_cast<int64_t>(tile.size()), w, M, D,
                  [&](int64_t r, int64_t j, const T* values, int count) {
                      for (int i = 0; i < count; ++i)
                          if (values[i] > most[r] && !tile[r].has(j + i)) most[r] = values[i], best[r] = j + i;
                  });
        for (std::size_t r = 0; r < tile.size(); ++r) {
            T* left = residual.data() + static_cast<int64_t>(r) * D;
            if (best[r] < 0) {
                std::fill_n(left, D, T(0));  // nothing fits any more, nor will it in later steps
                continue;
            }
            tile[r].join(best[r]);
            std::copy_n(tile[r].x, D, left);
            tile[r].subtract(left, D, minus, rows, [&](std::size_t i) { return tile[r].atoms[i]; });
        }
    }
}

}  // namespace

template <class T>
Codes<T> encode_omp(const Rows<T>& rows, const T* w, int64_t M, int64_t k, bool simple, int num_threads) {
    const int64_t N = rows.N, D = rows.D;
    if (k < 1 || k > M) throw std::invalid_argument("k: " + std::to_string(k) + ", expected 1 to " + std::to_string(M));
    check_unit_rows(w, M, D);
    const bool by_gram = !simple && M <= kGramEntries / M && N * (k - 1) > M;
    const std::vector<T> gram = by_gram ? gram_matrix(w, M, D, num_threads) : std::vector<T>();
    std::vector<int32_t> latents(static_cast<std::size_t>(N * k)), counts(static_cast<std::size_t>(N));
    std::vector<T> values(latents.size());
    parallel_for((N + kTile - 1) / kTile, num_threads, [&](int64_t block) {
        const int64_t first = block * kTile, R = std::min(kTile, N - first);
        std::vector<T> x(static_cast<std::size_t>(R * D));
        std::vector<Support<T>> tile;
        for (int64_t r = 0; r < R; ++r) {
            T* row = x.data() + r * D;
            rows.read(row, first + r);
            if (!(dot(row, row, D) < std::numeric_limits<T>::infinity())) std::fill_n(row, D, T(0));
            tile.emplace_back(row, w, D, k);
        }
        if (by_gram) {
            std::vector<T> c0(static_cast<std::size_t>(R * M)), c;
            correlate_into(c0.data(), x.data(), R, w, M, D);
            for (int64_t r = 0; r < R; ++r) pursue(tile[r], c0.data() + r * M, gram, M, c);
        } else {
            pursue(tile, x, w, M, D, k);
        }
        for (int64_t r = 0; r < R; ++r) {
            const int64_t at = (first + r) * k;
            std::vector<std::pair<int32_t, T>> found;
            for (std::size_t i = 0; i < tile[r].z.size(); ++i)
                if (tile[r].z[i] > 0) found.emplace_back(tile[r].latents[i], tile[r].z[i]);
            std::sort(found.begin(), found.end());
            for (std::size_t i = 0; i < found.size(); ++i)
                latents[at + i] = found[i].first, values[at + i] = found[i].second;
            counts[first + r] = static_cast<int32_t>(found.size());
        }
    });
    Codes<T> codes;
    codes.indptr.push_back(0);
    for (int64_t n = 0; n < N; ++n) {
        codes.indices.insert(codes.indices.end(), &latents[n * k], &latents[n * k] + counts[n]);
        codes.values.insert(codes.values.end(), &values[n * k], &values[n * k] + counts[n]);
        codes.indptr.push_back(static_cast<int32_t>(codes.indices.size()));
    }
    return codes;
}

#define INSTANTIATE(T) template Codes<T> encode_omp(const Rows<T>&, const T*, int64_t, int64_t, bool, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
