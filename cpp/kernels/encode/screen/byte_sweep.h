// All rows of a block against all latents, by bytes.
#pragma once

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/byte_tile.h"

namespace sparse_sae {

inline constexpr int64_t kByteTaskBytes = 160 << 10;  // packed rows of a task: they stay in the L2 cache

// Where cuts are guessed: soon, while a list holds all that has been seen, and then ever more rarely.
inline std::vector<int64_t> byte_stops(int64_t panels, int64_t capacity) {
    const int64_t dense = std::min(panels, std::min<int64_t>(capacity / kByteCols - 1, 512 / kByteCols));
    std::vector<int64_t> stops;
    for (const int64_t at : {dense, std::max(2 * dense, panels / 16), panels * 3 / 16, panels / 2, panels})
        if (at > (stops.empty() ? 0 : stops.back()) && at <= panels) stops.push_back(at);
    return stops;
}

// Visits the panels in the order of latents.visit, in stretches that end at `stops` (rising, the last being
// latents.visits()). After each but the last, stopped(share) may raise cuts: share is the part of the latents that has
// been seen. make_room(n): see byte_tile.h; never called for one row from two threads at once.
template <class Stopped, class MakeRoom>
void byte_sweep(ByteLatents& latents, ByteRows& rows, const std::vector<int64_t>& stops, int num_threads,
                Stopped stopped, MakeRoom make_room) {
    // As many rows as stay in the L2 cache, in a number of tasks that several threads can share evenly.
    const int64_t most = std::max<int64_t>(1, kByteTaskBytes / (kTileRows * latents.frame.padded));
    const int64_t wanted = ((rows.tiles + most - 1) / most + 15) / 16 * 16;
    const int64_t per_task = (rows.tiles + wanted - 1) / wanted, tasks = (rows.tiles + per_task - 1) / per_task;
    int64_t from = 0;
    for (const int64_t stop : stops) {
        while (from < stop) {
            const int64_t to = std::min(stop, latents.pack(from, num_threads));
            parallel_for(tasks, num_threads, [&](int64_t task) {
                for (int64_t at = from; at < to; ++at)
                    for (int64_t t = task * per_task; t < std::min(rows.tiles, (task + 1) * per_task); ++t)
                        if (latents.frame.direct.empty())
                            byte_tile<false>(rows, t, at, make_room);
                        else
                            byte_tile<true>(rows, t, at, make_room);
            });
            from = to;
        }
        if (stop != stops.back()) stopped(static_cast<double>(from) / static_cast<double>(latents.visits()));
    }
}

}  // namespace sparse_sae
