#include "kernels/encode/topk.h"

#include "kernels/encode/screen/byte_few.h"
#include "kernels/encode/screen/byte_product.h"
#include "kernels/encode/screen/byte_topk.h"
#include "kernels/encode/screen/screen_float.h"
#include "kernels/encode/screen/settle.h"

namespace sparse_sae {
namespace {

// Rows swept at once: as many as the packing allows, with candidates in at most kBlockBytes.
template <class T>
int64_t rows_at_once(int64_t row_bytes, int64_t room) {
    const int64_t fit = kBlockBytes / (room * Candidates<T>::entry_bytes());
    return std::min(block_rows(row_bytes), std::max<int64_t>(16, fit / kTileRows) * kTileRows);
}

template <class T>
Codes<T> by_floats(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads) {
    using Screen = FloatScreen<T>;
    const typename Screen::Weights weights(dict, rows, num_threads);
    Selected<T> selected(rows.N, select.k);
    const int64_t room = Candidates<T>::room(select.k, dict.M);
    const int64_t step = rows_at_once<T>(Screen::Weights::row_bytes(dict.D), room);
    for (int64_t n0 = 0; n0 < rows.N; n0 += step) {
        Screen screen(weights, rows, n0, std::min(step, rows.N - n0), num_threads);
        Candidates<T> found(select, dict.M, screen);
        sweep<T>(screen, dict.M, dict.M, num_threads, found);
        selected.settle(found, rows, n0, screen.count, dict, num_threads, [](int64_t) { return true; });
    }
    return selected.codes(num_threads);
}

// By bytes or tiles; false where these are not asked for or cannot be used.
template <class T>
bool by_bytes(Codes<T>* codes, const Rows<T>& rows, const Dictionary<T>& dict, TopK select, Screening how,
              int num_threads) {
    if constexpr (sizeof(T) == sizeof(float))
        return by_integers(how) && byte_topk(codes, rows, dict, select, how, num_threads);
    return false;
}

// Whether bytes could pay: shorter rows spend their time around the product, and a larger part of the latents than this
// leaves too many candidates.
template <class T>
bool worth_bytes(const Dictionary<T>& dict, TopK select) {
    return sizeof(T) == sizeof(float) && !select.absolute && dict.D >= 128 && dict.M >= 256 && 8 * select.k <= dict.M;
}

// By the bytes that are kept of a dictionary.
template <class T>
bool by_kept_bytes(Codes<T>* codes, const Rows<T>& rows, const Dictionary<T>& dict, TopK select, Screening how,
                   int num_threads) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (rows.N <= kFewKept) return few_topk_kept(codes, rows, dict, select, how, num_threads);
        return byte_topk(codes, rows, dict, select, how, num_threads);
    }
    return false;
}

}  // namespace

template <class T>
Codes<T> encode_topk(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads, Screening how) {
    check_topk(dict, select);
    const Screening kept = kept_screen(dict, rows.N, how);
    if (Codes<T> codes;
        by_integers(kept) && worth_bytes(dict, select) && by_kept_bytes(&codes, rows, dict, select, kept, num_threads))
        return codes;
    // Below this many rows a tile is mostly padding, and packing costs more than it saves.
    if (few_rows(rows.N) || dict.M <= kTileCols<T> || 2 * select.k >= dict.M)
        return encode_topk_simple(rows, dict, select, num_threads);
    Codes<T> codes;
    if (how == Screening::automatic && worth_bytes(dict, select)) {
        const ScreenTurn turn({"encode_topk", dict.D, dict.M, select.k, 0, num_threads}, rows.N);
        if (!by_bytes(&codes, rows, dict, select, turn.screen(), num_threads))
            codes = by_floats(rows, dict, select, num_threads);
        turn.done(codes.fallbacks);
        return codes;
    }
    if (by_bytes(&codes, rows, dict, select, how, num_threads)) return codes;
    return by_floats(rows, dict, select, num_threads);
}

namespace {

// Both selections look at the same tile. dead holds bits, a word for each tile.
template <class T>
struct BothCandidates {
    Candidates<T> main, aux;
    std::vector<std::uint32_t> dead;

    T threshold(int64_t n) const { return std::min(main.threshold(n), aux.threshold(n)); }
    void offer(int64_t n, int64_t j0, const T* s, int64_t count) {
        main.offer(n, j0, s, count);
        aux.offer(n, j0, s, count, dead[j0 / kTileCols<T>]);
    }
    void chunk_done(int64_t) {}
};

template <class T>
std::pair<Codes<T>, Codes<T>> both_by_floats(const Rows<T>& rows, const Dictionary<T>& dict, TopK select,
                                             const char* dead, TopK select_aux, int64_t n_dead, int num_threads) {
    using Screen = FloatScreen<T>;
    const typename Screen::Weights weights(dict, rows, num_threads);
    Selected<T> selected(rows.N, select.k), revived(rows.N, select_aux.k);
    std::vector<std::uint32_t> dead_bits(static_cast<std::size_t>((dict.M + kTileCols<T> - 1) / kTileCols<T>), 0);
    for (int64_t j = 0; j < dict.M; ++j)
        dead_bits[j / kTileCols<T>] |= static_cast<std::uint32_t>(dead[j]) << j % kTileCols<T>;
    const int64_t room = Candidates<T>::room(select.k, dict.M) + Candidates<T>::room(select_aux.k, n_dead);
    const int64_t step = rows_at_once<T>(Screen::Weights::row_bytes(dict.D), room);
    for (int64_t n0 = 0; n0 < rows.N; n0 += step) {
        Screen screen(weights, rows, n0, std::min(step, rows.N - n0), num_threads);
        BothCandidates<T> found{{select, dict.M, screen}, {select_aux, n_dead, screen}, dead_bits};
        sweep<T>(screen, dict.M, dict.M, num_threads, found);
        selected.settle(found.main, rows, n0, screen.count, dict, num_threads, [](int64_t) { return true; });
        revived.settle(found.aux, rows, n0, screen.count, dict, num_threads, [&](int64_t j) { return dead[j] != 0; });
    }
    return {selected.codes(num_threads), revived.codes(num_threads)};
}

// The main selection by bytes, and one of its own among the dead.
template <class T>
bool both_by_bytes(std::pair<Codes<T>, Codes<T>>* both, const Rows<T>& rows, const Dictionary<T>& dict, TopK select,
                   const std::vector<int32_t>& dead, TopK select_aux, Screening how, int num_threads) {
    if (!by_bytes(&both->first, rows, dict, select, how, num_threads)) return false;
    const Dictionary<T> among{dict.w, dict.b, dead.data(), static_cast<int64_t>(dead.size()), dict.D};
    const bool pays = worth_bytes(among, select_aux);
    both->second = encode_topk(rows, among, select_aux, num_threads, pays ? how : Screening::floats);
    for (int32_t& j : both->second.indices) j = dead[j];
    return true;
}

}  // namespace

template <class T>
std::pair<Codes<T>, Codes<T>> encode_topk_aux(const Rows<T>& rows, const Dictionary<T>& dict, TopK select,
                                              const char* dead, int64_t aux_k, int num_threads, Screening how) {
    check_topk(dict, select);
    if (aux_k < 1) throw std::invalid_argument("aux_k: must be at least 1");
    std::vector<int32_t> listed;
    for (int64_t j = 0; j < dict.M; ++j)
        if (dead[j]) listed.push_back(static_cast<int32_t>(j));
    const int64_t n_dead = static_cast<int64_t>(listed.size());
    const TopK select_aux{std::min(aux_k, n_dead), false, false};
    std::pair<Codes<T>, Codes<T>> both;
    if (n_dead == 0 || few_rows(rows.N) || dict.M <= kTileCols<T> || 2 * select.k >= dict.M) {
        both.first = encode_topk(rows, dict, select, num_threads, how);
        both.second.indptr.resize(static_cast<std::size_t>(rows.N) + 1);
        if (n_dead == 0) return both;
        both.second = encode_topk_simple(rows, Dictionary<T>{dict.w, dict.b, listed.data(), n_dead, dict.D}, select_aux,
                                         num_threads);
        for (int32_t& j : both.second.indices) j = listed[j];
        return both;
    }
    const auto floats = [&] { return both_by_floats(rows, dict, select, dead, select_aux, n_dead, num_threads); };
    if (how == Screening::automatic && worth_bytes(dict, select)) {
        // How many are dead decides too, and changes slowly: eighths of the dictionary make the keys.
        const int64_t eighth = 1 + 8 * n_dead / (dict.M + 1);
        const ScreenTurn turn({"encode_topk_aux", dict.D, dict.M, select.k, eighth, num_threads}, rows.N);
        if (!both_by_bytes(&both, rows, dict, select, listed, select_aux, turn.screen(), num_threads)) both = floats();
        turn.done(both.first.fallbacks + both.second.fallbacks);
        return both;
    }
    if (both_by_bytes(&both, rows, dict, select, listed, select_aux, how, num_threads)) return both;
    return floats();
}

#define INSTANTIATE(T)                                                                                              \
    template Codes<T> encode_topk(const Rows<T>&, const Dictionary<T>&, TopK, int, Screening);                      \
    template std::pair<Codes<T>, Codes<T>> encode_topk_aux(const Rows<T>&, const Dictionary<T>&, TopK, const char*, \
                                                           int64_t, int, Screening);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
