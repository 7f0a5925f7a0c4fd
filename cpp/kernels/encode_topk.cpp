#include "kernels/encode_topk.h"

#include "kernels/entries.h"
#include "kernels/sweep.h"

namespace sparse_sae {
namespace {

template <class T>
T rank_key(T value, bool absolute) {
    return absolute ? std::abs(value) : value;
}

// entries hold canonical values; leaves the selected ones, sorted by latent, and returns their number. Zeros, and
// with relu negative values, compete and are then dropped.
template <class T>
int64_t select_exact(Entry<T>* entries, int64_t count, TopK select) {
    const auto drop = [&](auto unwanted) { count = std::remove_if(entries, entries + count, unwanted) - entries; };
    const auto vanishes = [&](const Entry<T>& e) { return e.value == 0 || (select.relu && e.value < 0); };
    // Ranked by value, what vanishes ranks last (relu), so that it may go at once.
    const bool early = select.relu && !select.absolute;
    drop([&](const Entry<T>& e) { return std::isnan(e.value) || (early && vanishes(e)); });
    if (count > select.k) {
        std::nth_element(entries, entries + select.k - 1, entries + count, [&](const Entry<T>& a, const Entry<T>& b) {
            return ranks_before<T>({rank_key(a.value, select.absolute), a.latent}, {rank_key(b.value, select.absolute), b.latent});
        });
        count = select.k;
    }
    if (!early) drop(vanishes);
    std::sort(entries, entries + count, [](const Entry<T>& a, const Entry<T>& b) { return a.latent < b.latent; });
    return count;
}

template <class T>
int64_t select_in_full(std::vector<Entry<T>>& all, const T* x, const Dictionary<T>& dict, TopK select) {
    all.resize(static_cast<std::size_t>(dict.M));
    for (int64_t j = 0; j < dict.M; ++j) all[j].latent = static_cast<int32_t>(j);
    score(all.data(), dict.M, x, dict);
    return select_exact(all.data(), dict.M, select);
}

// Candidates of every row of a block. A row's buffer holds `capacity` entries; when it is nearly full it is
// cut back to what can still be among the k largest. With s the k-th largest approximation seen and e the
// bound, a latent below s - 2e has at least k canonical values above its own, so it may go.
template <class T>
struct Candidates {
    TopK select;
    int64_t k, capacity;
    std::vector<Entry<T>> entries;
    std::vector<int32_t> count;
    std::vector<T> cut, margin;
    std::vector<char> overflow;

    Candidates(TopK how, const PackedRows<T>& rows, const Dictionary<T>& dict, const DictionaryScale& scale)
        : select(how), k(std::min(how.k, dict.M)),
          capacity(std::min(dict.M, 2 * k + std::max<int64_t>(k, 64)) + kTileCols<T>),
          entries(static_cast<std::size_t>(rows.count * capacity)), count(rows.count, 0),
          cut(rows.count, how.relu && !how.absolute ? T(0) : -std::numeric_limits<T>::infinity()), margin(rows.count),
          overflow(rows.count, 0) {
        for (int64_t n = 0; n < rows.count; ++n) {
            margin[n] = 2 * error_bound<T>(static_cast<double>(rows.norms[n]), scale, dict.D);
            cut[n] -= margin[n];
        }
    }
    // With `absolute` a large negative value counts too; then every tile is offered and offer() looks closer.
    T threshold(int64_t n) const { return select.absolute ? -std::numeric_limits<T>::infinity() : cut[n]; }

    void offer(int64_t n, int64_t j0, const T* s, int64_t tile_count) {
        if (overflow[n]) return;
        Entry<T>* mine = entries.data() + n * capacity;
        int32_t c = count[n];
        for (int64_t i = 0; i < tile_count; ++i) {
            const T key = rank_key(s[i], select.absolute);
            if (std::isnan(key)) overflow[n] = 1;
            if (key >= cut[n]) mine[c++] = {key, static_cast<int32_t>(j0 + i)};
        }
        count[n] = c;
        if (c + kTileCols<T> <= capacity) return;
        cut_back(n);
        overflow[n] |= count[n] + kTileCols<T> > capacity;
    }
    void cut_back(int64_t n) {
        Entry<T>* mine = entries.data() + n * capacity;
        if (count[n] > k) {
            const auto by_key = [](const Entry<T>& a, const Entry<T>& b) { return a.value > b.value; };
            std::nth_element(mine, mine + k - 1, mine + count[n], by_key);
            cut[n] = std::max(cut[n], mine[k - 1].value - margin[n]);
            const T keep = cut[n];
            count[n] = static_cast<int32_t>(
                std::remove_if(mine, mine + count[n], [keep](const Entry<T>& e) { return e.value < keep; }) - mine);
        }
    }
    void chunk_done(int64_t) {}
};

template <class T>
void check(const Dictionary<T>& dict, TopK select) {
    if (select.k < 1) throw std::invalid_argument("k: must be at least 1");
    if (dict.M > INT32_MAX) throw std::length_error("w_enc: more than 2**31 - 1 latents");
}

}  // namespace

template <class T>
Codes<T> encode_topk(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads) {
    check(dict, select);
    // Below this many rows a tile is mostly padding, and packing costs more than it saves.
    if (rows.N <= kTileRows / 2 || dict.M <= kTileCols<T> || 2 * select.k >= dict.M)
        return encode_topk_simple(rows, dict, select, num_threads);
    const DictionaryScale scale = dictionary_scale(dict, num_threads);
    const int64_t k = std::min(select.k, dict.M);
    std::vector<Entry<T>> selected(static_cast<std::size_t>(rows.N * k));
    std::vector<int32_t> count(static_cast<std::size_t>(rows.N));
    std::vector<char> fell_back(static_cast<std::size_t>(rows.N), 0);
    const int64_t step = block_rows(dict.D, sizeof(T));
    for (int64_t n0 = 0; n0 < rows.N; n0 += step) {
        const PackedRows<T> packed(rows, n0, std::min(step, rows.N - n0), num_threads);
        Candidates<T> found(select, packed, dict, scale);
        sweep(packed, dict, dict.M, num_threads, found);
        constexpr int64_t kBlock = 16;
        parallel_for((packed.count + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
            std::vector<T> x(static_cast<std::size_t>(dict.D));
            std::vector<Entry<T>> all;
            for (int64_t n = block * kBlock; n < std::min(packed.count, (block + 1) * kBlock); ++n) {
                rows.read(x.data(), n0 + n);
                found.cut_back(n);
                Entry<T>* mine = found.entries.data() + n * found.capacity;
                if (found.overflow[n]) {
                    fell_back[n0 + n] = 1;
                    count[n0 + n] = static_cast<int32_t>(select_in_full(all, x.data(), dict, select));
                    mine = all.data();
                } else {
                    score(mine, found.count[n], x.data(), dict);
                    count[n0 + n] = static_cast<int32_t>(select_exact(mine, found.count[n], select));
                }
                std::copy_n(mine, count[n0 + n], selected.data() + (n0 + n) * k);
            }
        });
    }
    Codes<T> codes = gather_codes<T>(rows.N, num_threads, [&](int64_t n) {
        const Entry<T>* begin = selected.data() + n * k;
        return std::pair(begin, begin + count[n]);
    });
    codes.fallbacks = std::count(fell_back.begin(), fell_back.end(), 1);
    return codes;
}

template <class T>
Codes<T> encode_topk_simple(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads) {
    check(dict, select);
    std::vector<std::vector<Entry<T>>> selected(static_cast<std::size_t>(rows.N));
    if (rows.N < 8) {  // too few rows to share out: the threads share the latents of each
        std::vector<T> x(static_cast<std::size_t>(dict.D));
        std::vector<Entry<T>> all(static_cast<std::size_t>(dict.M));
        constexpr int64_t kBlock = 256;
        for (int64_t n = 0; n < rows.N; ++n) {
            rows.read(x.data(), n);
            parallel_for((dict.M + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
                const int64_t j1 = std::min(dict.M, (block + 1) * kBlock);
                for (int64_t j = block * kBlock; j < j1; ++j) all[j].latent = static_cast<int32_t>(j);
                score(all.data() + block * kBlock, j1 - block * kBlock, x.data(), dict);
            });
            selected[n].assign(all.data(), all.data() + select_exact(all.data(), dict.M, select));
        }
    } else {
        constexpr int64_t kBlock = 16;
        parallel_for((rows.N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
            std::vector<T> x(static_cast<std::size_t>(dict.D));
            std::vector<Entry<T>> all;
            for (int64_t n = block * kBlock; n < std::min(rows.N, (block + 1) * kBlock); ++n) {
                rows.read(x.data(), n);
                const int64_t count = select_in_full(all, x.data(), dict, select);
                selected[n].assign(all.data(), all.data() + count);
            }
        });
    }
    return gather_codes<T>(rows.N, num_threads, [&](int64_t n) {
        return std::pair(static_cast<const Entry<T>*>(selected[n].data()),
                         static_cast<const Entry<T>*>(selected[n].data()) + selected[n].size());
    });
}

template Codes<float> encode_topk(const Rows<float>&, const Dictionary<float>&, TopK, int);
template Codes<double> encode_topk(const Rows<double>&, const Dictionary<double>&, TopK, int);
template Codes<float> encode_topk_simple(const Rows<float>&, const Dictionary<float>&, TopK, int);
template Codes<double> encode_topk_simple(const Rows<double>&, const Dictionary<double>&, TopK, int);

}  // namespace sparse_sae
