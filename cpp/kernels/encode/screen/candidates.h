// Candidates for the k largest of every row of a block, while the latents stream by.
//
// A row's buffer holds `capacity` entries; when it is nearly full it is cut back to what can still be among the
// k largest. With e the bound of sweep.h and s the k-th largest approximation seen, k canonical values are at
// least s - e, so a latent whose approximation is below s - 2e may go. Where more remain than the buffer holds (many
// equal or nearly equal values), or where an approximation is NaN, the bound cannot decide: the row `overflow`s and is
// computed in full. Whichever way, the choice is made on canonical values (settle.h).
//
// Most tiles that are offered hold one or two candidates, so offer() visits set bits; and values lie apart from
// latents, so that cutting back, which reads all values several times, reads nothing else.
#pragma once

#include "kernels/encode/entries.h"
#include "kernels/encode/screen/screen_float.h"
#include "kernels/encode/topk.h"

namespace sparse_sae {

// The smallest and largest of count > 0 values.
template <class T>
std::pair<T, T> extent(const T* v, int64_t count) {
    constexpr int L = kLanes<T>;
    T low = v[0], high = v[0];
    int64_t i = 0;
    if (count >= L) {
        vec<T> least = load(v), most = least;
        for (; i + L <= count; i += L) {
            const vec<T> x = load(v + i);
            least = x < least ? x : least;
            most = x > most ? x : most;
        }
        for (int l = 0; l < L; ++l) low = std::min(low, least[l]), high = std::max(high, most[l]);
    }
    for (; i < count; ++i) low = std::min(low, v[i]), high = std::max(high, v[i]);
    return {low, high};
}

template <class T>
struct Candidates {
    TopK select;
    int64_t capacity;
    Buffer<T> values;  // (rows, capacity), uninitialised; with `absolute`, magnitudes
    Buffer<int32_t> latents;
    std::vector<int32_t> count;
    std::vector<T> cut, margin;
    std::vector<char> overflow;

    static int64_t room(int64_t k, int64_t competing) {
        return std::min(competing, 2 * k + std::max<int64_t>(k, 32)) + kTileCols<T>;
    }
    static int64_t entry_bytes() { return static_cast<int64_t>(2 * sizeof(T) + sizeof(int32_t)); }

    // competing: how many latents may ever be offered.
    template <class Screen>
    Candidates(TopK how, int64_t competing, const Screen& screen)
        : select(how),
          capacity(room(how.k, competing)),
          values(buffer<T>(screen.count * capacity)),
          latents(buffer<int32_t>(screen.count * capacity)),
          count(screen.count, 0),
          cut(screen.count, how.relu && !how.absolute ? T(0) : -std::numeric_limits<T>::infinity()),
          margin(screen.count),
          overflow(screen.count, 0) {
        for (int64_t n = 0; n < screen.count; ++n) {
            margin[n] = 2 * screen.bound(n);
            cut[n] -= margin[n];
            overflow[n] = !std::isfinite(margin[n]);
        }
    }

    // With `absolute` a large negative value counts too; then every tile is offered and offer() looks closer.
    T threshold(int64_t n) const { return select.absolute ? -std::numeric_limits<T>::infinity() : cut[n]; }

    // among: the positions of the tile that compete, as bits.
    void offer(int64_t n, int64_t j0, const T* s, int64_t tile_count, std::uint32_t among = ~0u) {
        if (overflow[n]) return;
        alignas(64) T magnitude[kTileCols<T>];
        if (select.absolute) {
            for (int i = 0; i < kTileCols<T>; ++i) magnitude[i] = std::abs(s[i]);
            s = magnitude;
        }
        std::uint32_t hits = lanes_reaching(s, cut[n]) & first_lanes(tile_count) & among;
        if (!hits) return;
        T* value = values.get() + n * capacity;
        int32_t* latent = latents.get() + n * capacity;
        int32_t c = count[n];
        bool nan = false;
        for (; hits; hits &= hits - 1, ++c) {
            const int i = __builtin_ctz(hits);
            value[c] = s[i];
            latent[c] = static_cast<int32_t>(j0 + i);
            nan |= s[i] != s[i];
        }
        overflow[n] = nan;
        count[n] = c;
        if (c + kTileCols<T> <= capacity) return;
        cut_back(n);
        if (count[n] + kTileCols < T >> capacity) cut_back(n, 40);
        overflow[n] |= count[n] + kTileCols<T> > capacity;
    }
    // The cut need not be the k-th largest itself: any value that k entries reach will do, so it is found by
    // halving an interval, which costs a tenth of a selection.
    void cut_back(int64_t n, int halvings = 10) {
        const int32_t size = count[n];
        if (size <= select.k) return;
        T* value = values.get() + n * capacity;
        int32_t* latent = latents.get() + n * capacity;
        auto [low, high] = extent(value, size);
        for (; halvings > 0; --halvings) {
            const T middle = low / 2 + high / 2;
            int32_t reach = 0;
            for (int32_t i = 0; i < size; ++i) reach += value[i] >= middle;
            (reach >= select.k ? low : high) = middle;
            if (reach == select.k) break;
        }
        cut[n] = std::max(cut[n], low - margin[n]);
        const T keep = cut[n];
        int32_t kept = 0;
        for (int32_t i = 0; i < size; ++i) {
            const bool stays = value[i] >= keep;
            value[kept] = value[i];
            latent[kept] = latent[i];
            kept += stays;
        }
        count[n] = kept;
    }
    void chunk_done(int64_t) {}
};

}  // namespace sparse_sae
