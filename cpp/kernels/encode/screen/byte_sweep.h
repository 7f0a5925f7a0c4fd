// All rows of a block against all latents, by bytes.
#pragma once

#include "kernels/common/cache.h"
#include "kernels/common/parallel.h"
#include "kernels/encode/screen/byte_tile.h"

namespace sparse_sae {

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
    // As many rows as stay in the second cache beside the latents, in a number of tasks that several threads can share
    // evenly.
    const int64_t most = std::max<int64_t>(1, second_cache() / 6 / (rows.packing.rows * latents.frame.padded));
    const int64_t wanted = ((rows.tiles + most - 1) / most + 15) / 16 * 16;
    const int64_t per_task = (rows.tiles + wanted - 1) / wanted, tasks = (rows.tiles + per_task - 1) / per_task;
    int64_t from = 0;
    for (const int64_t stop : stops) {
        while (from < stop) {
            const int64_t to = std::min(stop, latents.pack(from, num_threads));
            with_byte_product(rows.product, [&](auto product) {
                using Product = typename decltype(product)::type;
                parallel_for(tasks, num_threads, [&](int64_t task) {
                    const int64_t t0 = task * per_task, t1 = std::min(rows.tiles, t0 + per_task);
                    if (latents.frame.direct.empty())
                        byte_tiles<false, Product>(rows, t0, t1, from, to, make_room);
                    else
                        byte_tiles<true, Product>(rows, t0, t1, from, to, make_room);
                });
            });
            from = to;
        }
        if (stop != stops.back()) stopped(static_cast<double>(from) / static_cast<double>(latents.visits()));
    }
}

}  // namespace sparse_sae
