// Screening by a float product: every (row, latent) pair is approximated once, none is stored.
//
// sweep() walks the latents in chunks; each chunk is packed once, by all threads, and then multiplied with all
// rows of the block, so the weights are read from memory once per block of up to kBlockBytes of rows. Whoever
// selects sees the approximations of one row and kTileCols latents at a time, through
//     selector.threshold(n)            approximations below it are of no interest (read before each tile row)
//     selector.offer(n, j0, s, count)  some of s[0..count) reach the threshold
//     selector.chunk_done(j1)          every row has seen the latents [0, j1)
// offer() for one row is called in ascending order of latents and never from two threads at once.
//
// The approximation differs from the canonical value (simd.h: dot + bias) by at most error_bound(): both are
// sums of D products with a unit roundoff u, so each is within (D + 2) u sum|x_d w_d| + u|b| of the exact value
// up to second order, and sum|x_d w_d| <= |x| |w| (Cauchy-Schwarz).
#pragma once

#include <cmath>
#include <limits>

#include "kernels/buffer.h"
#include "kernels/parallel.h"
#include "kernels/tile.h"

namespace sparse_sae {

inline constexpr int64_t kBlockBytes = 16 << 20;  // packed rows of one block
inline constexpr int64_t kTaskBytes = 160 << 10;  // packed rows of one task: they stay in the L2 cache
inline constexpr int64_t kChunkBytes = 3 << 20;   // packed latents of one chunk

template <class T>
T norm(const T* v, int64_t D) {
    return std::sqrt(dot(v, v, D));
}

struct DictionaryScale {
    double norm, bias;  // the largest |w| and |b|
};

template <class T>
DictionaryScale dictionary_scale(const Dictionary<T>& dict, int num_threads) {
    constexpr int64_t kBlock = 256;
    const int64_t n_blocks = (dict.M + kBlock - 1) / kBlock;
    std::vector<DictionaryScale> part(static_cast<std::size_t>(n_blocks), DictionaryScale{0, 0});
    parallel_for(n_blocks, num_threads, [&](int64_t block) {
        DictionaryScale s{0, 0};
        for (int64_t j = block * kBlock; j < std::min(dict.M, (block + 1) * kBlock); ++j) {
            s.norm = std::max(s.norm, static_cast<double>(norm(dict.row(j), dict.D)));
            s.bias = std::max(s.bias, std::abs(static_cast<double>(dict.bias(j))));
        }
        part[block] = s;
    });
    DictionaryScale all{0, 0};
    for (const auto& s : part) all = {std::max(all.norm, s.norm), std::max(all.bias, s.bias)};
    return all;
}

template <class T>
T error_bound(double row_norm, const DictionaryScale& scale, int64_t D) {
    constexpr double u = std::numeric_limits<T>::epsilon() / 2.0;
    // 2 (D + 2) u for the two sums, with room for the rounding of the norms and of this expression; the last
    // term is for products that underflow.
    const double bound = (2.0 * static_cast<double>(D) + 64) * u * (row_norm * scale.norm + scale.bias) * 1.01;
    return static_cast<T>(bound + static_cast<double>(D) * std::numeric_limits<T>::min());
}

// Rows [n0, n0 + count) of the input, packed into tiles, with their norms.
template <class T>
struct PackedRows {
    int64_t n0, count, tiles, tiles_per_task;
    Buffer<T> data;
    std::vector<T> norms;

    PackedRows(const Rows<T>& rows, int64_t first, int64_t n, int num_threads)
        : n0(first),
          count(n),
          tiles((n + kTileRows - 1) / kTileRows),
          data(buffer<T>(tiles * kTileRows * rows.D)),
          norms(static_cast<std::size_t>(tiles * kTileRows)) {
        const int64_t tile_bytes = kTileRows * rows.D * static_cast<int64_t>(sizeof(T));
        // At least eight tasks where the rows allow it, so that a small batch still uses several threads.
        tiles_per_task = std::clamp<int64_t>(kTaskBytes / tile_bytes, 1, std::max<int64_t>(1, tiles / 8));
        Rows<T> part = rows;
        part.N = first + n;
        parallel_for(tiles, num_threads, [&](int64_t t) {
            std::vector<T> scratch(static_cast<std::size_t>(rows.D));
            for (int r = 0; r < kTileRows && t * kTileRows + r < count; ++r) {
                rows.read(scratch.data(), n0 + t * kTileRows + r);
                norms[t * kTileRows + r] = norm(scratch.data(), rows.D);
            }
            pack_rows(tile(t, rows.D), part, n0 + t * kTileRows, scratch.data());
        });
    }
    T* tile(int64_t t, int64_t D) const { return data.get() + t * kTileRows * D; }
};

inline int64_t block_rows(int64_t D, int64_t item) {
    const int64_t n = kBlockBytes / std::max<int64_t>(1, D * item);
    return std::clamp<int64_t>(n / kTileRows * kTileRows, 16 * kTileRows, 8192 / kTileRows * kTileRows);
}

// first_chunk: latents before the first chunk_done(); chunks then double up to kChunkBytes.
template <class T, class Selector>
void sweep(const PackedRows<T>& rows, const Dictionary<T>& dict, int64_t first_chunk, int num_threads,
           Selector& selector) {
    constexpr int C = kTileCols<T>;
    const int64_t D = dict.D;
    const int64_t panels = (dict.M + C - 1) / C;
    const int64_t most = std::clamp<int64_t>(kChunkBytes / (C * D * static_cast<int64_t>(sizeof(T))), 1, panels);
    int64_t chunk = std::clamp<int64_t>((first_chunk + C - 1) / C, 1, most);
    const Buffer<T> packed = buffer<T>(most * C * D);
    std::vector<T> bias(static_cast<std::size_t>(most * C));
    for (int64_t p0 = 0; p0 < panels; p0 += chunk, chunk = std::min(most, 2 * chunk)) {
        const int64_t n_panels = std::min(chunk, panels - p0);
        parallel_for(n_panels, num_threads, [&](int64_t p) {
            pack_latents(packed.get() + p * C * D, dict, (p0 + p) * C);
            for (int c = 0; c < C; ++c) {
                const int64_t j = (p0 + p) * C + c;
                bias[p * C + c] = j < dict.M ? dict.bias(j) : T(0);
            }
        });
        const int64_t tasks = (rows.tiles + rows.tiles_per_task - 1) / rows.tiles_per_task;
        parallel_for(tasks, num_threads, [&](int64_t task) {
            alignas(64) T s[kTileRows * C];
            const int64_t t1 = std::min(rows.tiles, (task + 1) * rows.tiles_per_task);
            for (int64_t p = 0; p < n_panels; ++p) {
                const int64_t j0 = (p0 + p) * C;
                const int64_t count = std::min<int64_t>(C, dict.M - j0);
                for (int64_t t = task * rows.tiles_per_task; t < t1; ++t) {
                    const int r1 = static_cast<int>(std::min<int64_t>(kTileRows, rows.count - t * kTileRows));
                    T threshold[kTileRows] = {};
                    for (int r = 0; r < r1; ++r) threshold[r] = selector.threshold(t * kTileRows + r);
                    const T *x = rows.tile(t, D), *w = packed.get() + p * C * D;
                    const unsigned reached = tile_product(s, x, w, bias.data() + p * C, threshold, D);
                    for (int r = 0; r < r1; ++r)
                        if (reached >> r & 1) selector.offer(t * kTileRows + r, j0, s + r * C, count);
                }
            }
        });
        selector.chunk_done(std::min(dict.M, (p0 + n_panels) * C));
    }
}

}  // namespace sparse_sae
