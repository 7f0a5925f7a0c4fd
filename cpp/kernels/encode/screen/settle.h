// The exact choice: candidates are scored by the canonical dot product, and the k largest of these are selected.
#pragma once

#include <functional>

#include "kernels/encode/screen/candidates.h"

namespace sparse_sae {

template <class T>
T rank_key(T value, bool absolute) {
    return absolute ? std::abs(value) : value;
}

// A key that at least k of the entries reach: the k-th largest of the maxima of small groups. NaN counts as nothing.
template <class T>
T reached_by(const Entry<T>* entries, int64_t count, const TopK& select) {
    constexpr int64_t kGroup = 16;
    thread_local std::vector<T> most;
    most.assign(static_cast<std::size_t>((count + kGroup - 1) / kGroup), -std::numeric_limits<T>::infinity());
    if (static_cast<int64_t>(most.size()) < select.k) return -std::numeric_limits<T>::infinity();
    for (int64_t e = 0; e < count; ++e) {
        const T key = rank_key(entries[e].value, select.absolute);
        T& best = most[e / kGroup];
        best = key > best ? key : best;
    }
    std::nth_element(most.begin(), most.begin() + (select.k - 1), most.end(), std::greater<T>());
    return most[select.k - 1];
}

// entries hold values, sorted by latent; leaves the selected ones, in the same order, and returns their
// number. Zeros, and with relu negative values, compete and are then dropped. scratch is overwritten.
template <class T>
int64_t select_exact(Entry<T>* entries, int64_t count, TopK select, std::vector<Entry<T>>& scratch) {
    constexpr int64_t kMany = 64;  // entries for each that is selected: sorting them all would take longer
    const auto drop = [&](auto unwanted) { count = std::remove_if(entries, entries + count, unwanted) - entries; };
    const auto vanishes = [&](const Entry<T>& e) { return e.value == 0 || (select.relu && e.value < 0); };
    // Ranked by value, what vanishes ranks last (relu), so that it may go at once.
    const bool early = select.relu && !select.absolute;
    const T least =
        count >= kMany * select.k ? reached_by(entries, count, select) : -std::numeric_limits<T>::infinity();
    drop([&](const Entry<T>& e) {
        return !(rank_key(e.value, select.absolute) >= least) || (early && vanishes(e));  // NaN is not above anything
    });
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
        const int64_t visiting = visiting_rows(n_rows);
        parallel_for((n_rows + visiting - 1) / visiting, num_threads, [&](int64_t block) {
            const int64_t first = block * visiting, n = std::min(visiting, n_rows - first);
            std::vector<T> x(static_cast<std::size_t>(n * dict.D));
            std::vector<Entry<T>> all, scratch;
            std::vector<Entry<T>*> mine(static_cast<std::size_t>(n));
            std::vector<Entry<T>> room(static_cast<std::size_t>(n * found.capacity));
            std::vector<int64_t> many(static_cast<std::size_t>(n));
            for (int64_t i = 0; i < n; ++i) {
                rows.read(x.data() + i * dict.D, n0 + first + i);
                found.cut_back(first + i, 20);
                mine[i] = room.data() + i * found.capacity;
                many[i] = found.overflow[first + i] ? 0 : found.count[first + i];
                const int64_t at = (first + i) * found.capacity;
                for (int64_t e = 0; e < many[i]; ++e) mine[i][e] = {found.values[at + e], found.latents[at + e]};
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
