#include "kernels/omp/omp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/common/parallel.h"
#include "kernels/common/simd.h"
#include "kernels/omp/support.h"

namespace sparse_sae {
namespace {

// Rows that share one pass over the dictionary. They stay in the cache while latents stream by.
constexpr int64_t kTile = 16;

// use(r, j, values, count): the dot products of row r of x (R, D) with latents j, j + 1, ..., for all R rows.
template <class T, class Use>
void correlate(const T* x, int64_t R, const T* w, int64_t M, int64_t D, Use use) {
    constexpr int B = kDotRows<T>;
    T out[B];
    const T* latents[B];
    int64_t j = 0;
    for (; j + B <= M; j += B) {
        for (int b = 0; b < B; ++b) latents[b] = w + (j + b) * D;
        for (int64_t r = 0; r < R; ++r) {
            dot_rows<T, B>(out, x + r * D, latents, D);
            use(r, j, out, B);
        }
    }
    for (; j < M; ++j)
        for (int64_t r = 0; r < R; ++r) {
            out[0] = dot(x + r * D, w + j * D, D);
            use(r, j, out, 1);
        }
}

// w w^T, of canonical dot products.
template <class T>
std::vector<T> gram_matrix(const T* w, int64_t M, int64_t D, int num_threads) {
    std::vector<T> out(static_cast<std::size_t>(M * M));
    parallel_for((M + kTile - 1) / kTile, num_threads, [&](int64_t tile) {
        const int64_t first = tile * kTile, R = std::min(kTile, M - first);
        correlate(w + first * D, R, w, first + R, D, [&](int64_t r, int64_t j, const T* values, int count) {
            for (int i = 0; i < count; ++i) out[(first + r) * M + j + i] = out[(j + i) * M + first + r] = values[i];
        });
    });
    return out;
}

template <class T>
T largest(const T* c, int64_t M) {
    constexpr int L = kLanes<T>;
    T best = -std::numeric_limits<T>::infinity();
    vec<T> most = best - vec<T>{};
    int64_t j = 0;
    for (; j + L <= M; j += L) {
        const vec<T> v = load(c + j);
        most = v > most ? v : most;
    }
    for (int i = 0; i < L; ++i) best = std::max(best, most[i]);
    for (; j < M; ++j) best = std::max(best, c[j]);
    return best;
}

// At least the norm of x. Of rows so small that their squares underflow, a dot product would say that they have none.
template <class T>
T norm_bound(const T* x, int64_t D) {
    using Limits = std::numeric_limits<T>;
    const T norm = std::sqrt(dot(x, x, D));
    if (norm > std::sqrt(Limits::min() / Limits::epsilon())) return norm;
    T most = 0;
    for (int64_t d = 0; d < D; ++d) most = std::max(most, std::abs(x[d]));
    return most * std::sqrt(static_cast<T>(D));
}

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
        // Both this update and the dot product with the residual err by at most (D / 32 + 8 + 2 (size + 1)) u
        // (|x| + sum z), u half of epsilon: D / 32 additions and a tree of 5 a dot product, size terms a sum. Where
        // products underflow, each loses at most the smallest number: D of a dot product, size for each of D elements.
        T reach = norm;
        for (const T z : s.z) reach += z;
        const int64_t size = static_cast<int64_t>(s.z.size());
        const T steps = static_cast<T>(s.D / 32 + 10 + 2 * size);
        const T lost = static_cast<T>(2 * (s.D + 1) * (size + 1)) * std::numeric_limits<T>::denorm_min();
        const T slack = 2 * steps * std::numeric_limits<T>::epsilon() * reach + lost;
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
    for (int64_t j = 0; j < M; ++j)
        if (const T squared = dot(w + j * D, w + j * D, D); squared != 0 && !(std::abs(squared - 1) < T(1e-3)))
            throw std::invalid_argument("w: row " + std::to_string(j) + " has norm " +
                                        std::to_string(std::sqrt(squared)) + ", expected 1 or 0");
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
            correlate(x.data(), R, w, M, D, [&](int64_t r, int64_t j, const T* found, int count) {
                std::copy_n(found, count, c0.data() + r * M + j);
            });
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
