// Screening: every (row, latent) pair is approximated once, none is stored.
//
// sweep() walks the latents in chunks; each chunk is packed once, by all threads, and then multiplied with all
// rows of the block, so the weights are read from memory once per block of up to kBlockBytes of rows. Whoever
// selects sees the approximations of one row and kTileCols latents at a time, through
//     selector.threshold(n)            approximations below it are of no interest (read before each tile row)
//     selector.offer(n, j0, s, count)  some of s[0..count) reach the threshold
//     selector.chunk_done(j1)          every row has seen the latents [0, j1)
// offer() for one row is called in ascending order of latents and never from two threads at once.
//
// How a pair is approximated is the screen's business (screen_float.h). A screen holds the packed rows
// of a block and has
//     count, tiles, tiles_per_task     its rows, the tiles they make, how many of these a task takes
//     bound(n)                         the canonical value (simd.h) is within it; infinite where nothing is known
//     panel_bytes(), reserve(panels)   room for packed latents
//     pack(slot, j0)                   packs the latents [j0, j0 + kTileCols)
//     product(s, tile, slot, limit)    approximations of one tile; bit r is set where row r has one >= limit[r], or NaN
#pragma once

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/tile.h"

namespace sparse_sae {

inline constexpr int64_t kBlockBytes = 16 << 20;  // packed rows of one block
inline constexpr int64_t kTaskBytes = 160 << 10;  // packed rows of one task: they stay in the L2 cache
inline constexpr int64_t kChunkBytes = 3 << 20;   // packed latents of one chunk

inline int64_t block_rows(int64_t row_bytes) {
    const int64_t n = kBlockBytes / std::max<int64_t>(1, row_bytes);
    return std::clamp<int64_t>(n / kTileRows * kTileRows, 16 * kTileRows, 8192 / kTileRows * kTileRows);
}

// Tiles of a task: at least eight tasks where the rows allow it, so that a small batch still uses several threads.
inline int64_t tiles_a_task(int64_t tiles, int64_t tile_bytes) {
    return std::clamp<int64_t>(kTaskBytes / tile_bytes, 1, std::max<int64_t>(1, tiles / 8));
}

// first_chunk: latents before the first chunk_done(); chunks then double up to kChunkBytes.
template <class T, class Screen, class Selector>
void sweep(Screen& screen, int64_t M, int64_t first_chunk, int num_threads, Selector& selector) {
    constexpr int C = kTileCols<T>;
    const int64_t panels = (M + C - 1) / C;
    const int64_t most = std::clamp<int64_t>(kChunkBytes / screen.panel_bytes(), 1, panels);
    int64_t chunk = std::clamp<int64_t>((first_chunk + C - 1) / C, 1, most);
    screen.reserve(most);
    for (int64_t p0 = 0; p0 < panels; p0 += chunk, chunk = std::min(most, 2 * chunk)) {
        const int64_t n_panels = std::min(chunk, panels - p0);
        parallel_for(n_panels, num_threads, [&](int64_t p) { screen.pack(p, (p0 + p) * C); });
        const int64_t tasks = (screen.tiles + screen.tiles_per_task - 1) / screen.tiles_per_task;
        parallel_for(tasks, num_threads, [&](int64_t task) {
            alignas(64) T s[kTileRows * C];
            const int64_t t1 = std::min(screen.tiles, (task + 1) * screen.tiles_per_task);
            for (int64_t p = 0; p < n_panels; ++p) {
                const int64_t j0 = (p0 + p) * C;
                const int64_t count = std::min<int64_t>(C, M - j0);
                for (int64_t t = task * screen.tiles_per_task; t < t1; ++t) {
                    const int r1 = static_cast<int>(std::min<int64_t>(kTileRows, screen.count - t * kTileRows));
                    T threshold[kTileRows] = {};
                    for (int r = 0; r < r1; ++r) threshold[r] = selector.threshold(t * kTileRows + r);
                    unsigned reached = screen.product(s, t, p, threshold) & ((1u << r1) - 1);
                    for (; reached; reached &= reached - 1) {
                        const int r = __builtin_ctz(reached);
                        selector.offer(t * kTileRows + r, j0, s + r * C, count);
                    }
                }
            }
        });
        selector.chunk_done(std::min(M, (p0 + n_panels) * C));
    }
}

}  // namespace sparse_sae
