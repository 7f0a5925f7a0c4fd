// Candidates for the k largest of every row of a block, while the latents stream by; then the exact choice.
//
// A row's buffer holds `capacity` entries; when it is nearly full it is cut back to what can still be among the
// k largest. With s the k-th largest approximation seen and e the bound of sweep.h, a latent below s - 2e has at
// least k canonical values above its own, so it may go. Where more remain than the buffer holds (many equal or
// nearly equal values), or where an approximation is NaN, the bound cannot decide: the row `overflow`s and is
// computed in full. Whichever way, the choice is made on canonical values.
#pragma once

#include "kernels/encode_topk.h"
#include "kernels/entries.h"
#include "kernels/sweep.h"

namespace sparse_sae {

template <class T>
T rank_key(T value, bool absolute) {
    return absolute ? std::abs(value) : value;
}

// entries hold canonical values, sorted by latent; leaves the selected ones, in the same order, and returns their
// number. Zeros, and with relu negative values, compete and are then dropped. scratch is overwritten.
template <class T>
int64_t select_exact(Entry<T>* entries, int64_t count, TopK select, std::vector<Entry<T>>& scratch) {
    const auto drop = [&](auto unwanted) { count = std::remove_if(entries, entries + count, unwanted) - entries; };
    const auto vanishes = [&](const Entry<T>& e) { return e.value == 0 || (select.relu && e.value < 0); };
    // Ranked by value, what vanishes ranks last (relu), so that it may go at once.
    const bool early = select.relu && !select.absolute;
    drop([&](const Entry<T>& e) { return std::isnan(e.value) || (early && vanishes(e)); });
    if (count > select.k) {
        const auto before = [&](const Entry<T>& a, const Entry<T>& b) {
            return ranks_before<T>({rank_key(a.value, select.absolute), a.latent},
                                   {rank_key(b.value, select.absolute), b.latent});
        };
        scratch.assign(entries, entries + count);
        std::nth_element(scratch.begin(), scratch.begin() + (select.k - 1), scratch.end(), before);
        const Entry<T> last = scratch[select.k - 1];
        drop([&](const Entry<T>& e) { return before(last, e); });
    }
    if (!early) drop(vanishes);
    return count;
}

template <class T>
struct Candidates {
    TopK select;
    int64_t capacity;
    std::vector<Entry<T>> entries;
    std::vector<int32_t> count;
    std::vector<T> cut, margin;
    std::vector<char> overflow;

    static int64_t room(int64_t k, int64_t competing) {
        return std::min(competing, 2 * k + std::max<int64_t>(k, 32)) + kTileCols<T>;
    }

    // competing: how many latents may ever be offered.
    Candidates(TopK how, int64_t competing, const PackedRows<T>& rows, const DictionaryScale& scale, int64_t D)
        : select(how),
          capacity(room(how.k, competing)),
          entries(static_cast<std::size_t>(rows.count * capacity)),
          count(rows.count, 0),
          cut(rows.count, how.relu && !how.absolute ? T(0) : -std::numeric_limits<T>::infinity()),
          margin(rows.count),
          overflow(rows.count, 0) {
        for (int64_t n = 0; n < rows.count; ++n) {
            margin[n] = 2 * error_bound<T>(static_cast<double>(rows.norms[n]), scale, D);
            cut[n] -= margin[n];
        }
    }
    Entry<T>* row(int64_t n) { return entries.data() + n * capacity; }

    // With `absolute` a large negative value counts too; then every tile is offered and offer() looks closer.
    T threshold(int64_t n) const { return select.absolute ? -std::numeric_limits<T>::infinity() : cut[n]; }

    void offer(int64_t n, int64_t j0, const T* s, int64_t tile_count) {
        offer(n, j0, s, tile_count, [](int64_t) { return true; });
    }
    // among(i): whether position i of the tile competes.
    template <class Among>
    void offer(int64_t n, int64_t j0, const T* s, int64_t tile_count, Among among) {
        if (overflow[n]) return;
        Entry<T>* mine = row(n);
        int32_t c = count[n];
        bool nan = false;
        const T least = cut[n];
        for (int64_t i = 0; i < tile_count; ++i) {  // without branches: what is kept is hard to foresee
            const T key = rank_key(s[i], select.absolute);
            mine[c] = {key, static_cast<int32_t>(j0 + i)};
            c += (key >= least) & among(i);
            nan |= (key != key) & among(i);
        }
        overflow[n] = nan;
        count[n] = c;
        if (c + kTileCols<T> <= capacity) return;
        cut_back(n);
        if (count[n] + kTileCols<T> > capacity) cut_back(n, 40);
        overflow[n] |= count[n] + kTileCols<T> > capacity;
    }
    // The cut need not be the k-th largest itself: any value that k entries reach will do, so it is found by
    // halving an interval, which costs a tenth of a selection.
    void cut_back(int64_t n, int halvings = 10) {
        if (count[n] <= select.k) return;
        Entry<T>* mine = row(n);
        const auto reach = [&](T least) {
            int64_t c = 0;
            for (int64_t i = 0; i < count[n]; ++i) c += mine[i].value >= least;
            return c;
        };
        T low = mine[0].value, high = low;
        for (int64_t i = 1; i < count[n]; ++i) low = std::min(low, mine[i].value), high = std::max(high, mine[i].value);
        for (; halvings > 0; --halvings) {
            const T middle = low / 2 + high / 2;
            const int64_t c = reach(middle);
            (c >= select.k ? low : high) = middle;
            if (c == select.k) break;
        }
        cut[n] = std::max(cut[n], low - margin[n]);
        const T keep = cut[n];
        const auto end = std::remove_if(mine, mine + count[n], [keep](const Entry<T>& e) { return e.value < keep; });
        count[n] = static_cast<int32_t>(end - mine);
    }
    void chunk_done(int64_t) {}
};

// The selected entries of the rows encoded so far.
template <class T>
struct Selected {
    int64_t k;
    std::vector<Entry<T>> entries;
    std::vector<int32_t> count;
    std::vector<char> fell_back;

    Selected(int64_t N, int64_t most)
        : k(most),
          entries(static_cast<std::size_t>(N * most)),
          count(static_cast<std::size_t>(N)),
          fell_back(static_cast<std::size_t>(N), 0) {}

    // Settles every row of the block: the candidates are scored and the exact choice is made. competes(j) says
    // which latents compete, for rows that must be computed in full.
    template <class Competes>
    void settle(Candidates<T>& found, const Rows<T>& rows, int64_t n0, int64_t n_rows, const Dictionary<T>& dict,
                int num_threads, Competes competes) {
        constexpr int64_t kRows = 64;  // with as many latents they stay in the L2 cache
        parallel_for((n_rows + kRows - 1) / kRows, num_threads, [&](int64_t block) {
            const int64_t first = block * kRows, n = std::min(kRows, n_rows - first);
            std::vector<T> x(static_cast<std::size_t>(n * dict.D));
            std::vector<Entry<T>> all, scratch;
            std::vector<Entry<T>*> mine(static_cast<std::size_t>(n));
            std::vector<int64_t> many(static_cast<std::size_t>(n));
            for (int64_t i = 0; i < n; ++i) {
                rows.read(x.data() + i * dict.D, n0 + first + i);
                found.cut_back(first + i, 20);
                mine[i] = found.row(first + i);
                many[i] = found.overflow[first + i] ? 0 : found.count[first + i];
                std::sort(mine[i], mine[i] + many[i],
                          [](const Entry<T>& a, const Entry<T>& b) { return a.latent < b.latent; });
            }
            score_block(mine.data(), many.data(), x.data(), n, dict);
            for (int64_t i = 0; i < n; ++i) {
                const int64_t at = n0 + first + i;
                Entry<T>* choice = mine[i];
                int64_t size = many[i];
                if (found.overflow[first + i]) {
                    fell_back[at] = 1;
                    all.clear();
                    for (int64_t j = 0; j < dict.M; ++j)
                        if (competes(j)) all.push_back({0, static_cast<int32_t>(j)});
                    choice = all.data();
                    size = static_cast<int64_t>(all.size());
                    score(choice, size, x.data() + i * dict.D, dict);
                }
                count[at] = static_cast<int32_t>(select_exact(choice, size, found.select, scratch));
                std::copy_n(choice, count[at], entries.data() + at * k);
            }
        });
    }

    Codes<T> codes(int num_threads) const {
        Codes<T> out = gather_codes<T>(static_cast<int64_t>(count.size()), num_threads, [&](int64_t n) {
            const Entry<T>* begin = entries.data() + n * k;
            return std::pair(begin, begin + count[n]);
        });
        out.fallbacks = std::count(fell_back.begin(), fell_back.end(), 1);
        return out;
    }
};

}  // namespace sparse_sae
