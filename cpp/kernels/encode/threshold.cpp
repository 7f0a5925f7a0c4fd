#include "kernels/encode/threshold.h"

#include "kernels/encode/entries.h"
#include "kernels/encode/screen/above.h"
#include "kernels/encode/screen/byte_batch.h"
#include "kernels/encode/screen/byte_few.h"
#include "kernels/encode/screen/byte_threshold.h"
#include "kernels/encode/screen/screen_float.h"

namespace sparse_sae {
namespace {

// Replaces approximations by canonical values and drops what fails `keep`.
template <class T, class Keep>
void score_rows(RowEntries<T>& found, const Rows<T>& rows, int64_t n0, const Dictionary<T>& dict, int num_threads,
                Keep keep) {
    constexpr int64_t kBlock = 16;
    const int64_t N = static_cast<int64_t>(found.size());
    parallel_for((N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
        std::vector<T> x(static_cast<std::size_t>(dict.D));
        for (int64_t n = block * kBlock; n < std::min(N, (block + 1) * kBlock); ++n) {
            auto& row = found[n];
            rows.read(x.data(), n0 + n);
            score(row.data(), static_cast<int64_t>(row.size()), x.data(), dict);
            row.erase(std::remove_if(row.begin(), row.end(), [&](const Entry<T>& e) { return !keep(e); }), row.end());
            row.shrink_to_fit();
        }
    });
}

template <class T>
Codes<T> to_codes(const RowEntries<T>& found, int num_threads) {
    return gather_codes<T>(static_cast<int64_t>(found.size()), num_threads,
                           [&](int64_t n) { return std::pair(found[n].data(), found[n].data() + found[n].size()); });
}

// Without tiles and bounds: every pre-activation, then the comparison.
template <class T>
Codes<T> encode_threshold_few(const Rows<T>& rows, const Dictionary<T>& dict, const T* threshold, int num_threads) {
    RowEntries<T> kept(static_cast<std::size_t>(rows.N));
    score_few_rows(rows, dict, num_threads, [&](int64_t n, const std::vector<Entry<T>>& all) {
        for (const Entry<T>& e : all)
            if (e.value > (threshold ? threshold[dict.at(e.latent)] : T(0)) && e.value != 0) kept[n].push_back(e);
    });
    return to_codes(kept, 1);
}

template <class T>
Codes<T> threshold_by_floats(const Rows<T>& rows, const Dictionary<T>& dict, const T* threshold, int num_threads) {
    using Screen = FloatScreen<T>;
    const typename Screen::Weights weights(dict, rows, num_threads);
    RowEntries<T> all(static_cast<std::size_t>(rows.N));
    const int64_t step = block_rows(Screen::Weights::row_bytes(dict.D));
    for (int64_t n0 = 0; n0 < rows.N; n0 += step) {
        Screen screen(weights, rows, n0, std::min(step, rows.N - n0), num_threads);
        AboveThreshold<T> found(dict, threshold, screen);
        sweep<T>(screen, dict.M, dict.M, num_threads, found);
        score_rows(found.found, rows, n0, dict, num_threads,
                   [&](const Entry<T>& e) { return e.value > found.at(e.latent) && e.value != 0; });
        std::move(found.found.begin(), found.found.end(), all.begin() + n0);
    }
    return to_codes(all, num_threads);
}

}  // namespace

template <class T>
Codes<T> encode_threshold(const Rows<T>& rows, const Dictionary<T>& dict, const T* threshold, int num_threads,
                          Screening how) {
    if constexpr (sizeof(T) == sizeof(float)) {
        const Screening kept = kept_screen(dict, rows.N, how);
        if (Codes<T> codes; by_integers(kept) &&
                            (rows.N <= kFewKept ? few_above_kept(&codes, rows, dict, threshold, kept, num_threads)
                                                : byte_threshold(&codes, rows, dict, threshold, kept, num_threads)))
            return codes;
    }
    if (few_rows(rows.N)) return encode_threshold_few(rows, dict, threshold, num_threads);
    const auto floats = [&] { return threshold_by_floats(rows, dict, threshold, num_threads); };
    if constexpr (sizeof(T) == sizeof(float)) {
        Codes<T> codes;
        if (how == Screening::automatic && dict.D >= 128 && dict.M >= 256) {
            const ScreenTurn turn({"encode_threshold", dict.D, dict.M, 0, 0, num_threads}, rows.N);
            if (!by_integers(turn.screen()) ||
                !byte_threshold(&codes, rows, dict, threshold, turn.screen(), num_threads))
                codes = floats();
            turn.done(codes.fallbacks);
            return codes;
        }
        if (by_integers(how) && byte_threshold(&codes, rows, dict, threshold, how, num_threads)) return codes;
    }
    return floats();
}

namespace {

// Canonical values above zero, the `total` largest of all rows among them.
template <class T>
RowEntries<T> batch_by_floats(const Rows<T>& rows, const Dictionary<T>& dict, int64_t total, int num_threads) {
    // All rows compete, so all are packed at once: this is a kernel for training batches.
    const typename FloatScreen<T>::Weights weights(dict, rows, num_threads);
    FloatScreen<T> screen(weights, rows, 0, rows.N, num_threads);
    AboveCommonCut<T> found(total, screen);
    const int64_t per_row = (total + rows.N - 1) / std::max<int64_t>(1, rows.N);
    sweep<T>(screen, dict.M, 2 * per_row, num_threads, found);
    score_rows(found.found, rows, 0, dict, num_threads, [](const Entry<T>& e) { return e.value > 0; });
    return std::move(found.found);
}

template <class T>
RowEntries<T> batch_candidates(const Rows<T>& rows, const Dictionary<T>& dict, int64_t total, int num_threads,
                               Screening how) {
    if constexpr (sizeof(T) == sizeof(float)) {
        RowEntries<T> all;
        if (how == Screening::automatic && dict.D >= 128 && dict.M >= 256 && rows.N > 0) {
            const ScreenTurn turn({"encode_batch_topk", dict.D, dict.M, total / rows.N, 0, num_threads}, rows.N);
            if (!by_integers(turn.screen()) || !byte_batch_topk(all, rows, dict, total, turn.screen(), num_threads))
                all = batch_by_floats(rows, dict, total, num_threads);
            turn.done(0);
            return all;
        }
        if (by_integers(how) && byte_batch_topk(all, rows, dict, total, how, num_threads)) return all;
    }
    return batch_by_floats(rows, dict, total, num_threads);
}

}  // namespace

template <class T>
Codes<T> encode_batch_topk(const Rows<T>& rows, const Dictionary<T>& dict, int64_t total, int num_threads,
                           Screening how) {
    if (total < 1) throw std::invalid_argument("total: must be at least 1");
    RowEntries<T> all = batch_candidates(rows, dict, total, num_threads, how);
    struct Place {
        T value;
        int32_t row, latent;
    };
    std::vector<Place> places;
    for (std::size_t n = 0; n < all.size(); ++n)
        for (const auto& e : all[n]) places.push_back({e.value, static_cast<int32_t>(n), e.latent});
    if (static_cast<int64_t>(places.size()) > total) {
        const auto before = [](const Place& a, const Place& b) {
            if (a.value != b.value) return a.value > b.value;
            return a.row != b.row ? a.row < b.row : a.latent < b.latent;
        };
        std::nth_element(places.begin(), places.begin() + (total - 1), places.end(), before);
        const Place last = places[total - 1];
        for (std::size_t n = 0; n < all.size(); ++n) {
            auto& row = all[n];
            const auto beaten = [&](const Entry<T>& e) {
                return before(last, {e.value, static_cast<int32_t>(n), e.latent});
            };
            row.erase(std::remove_if(row.begin(), row.end(), beaten), row.end());
        }
    }
    return to_codes(all, num_threads);
}

template Codes<float> encode_threshold(const Rows<float>&, const Dictionary<float>&, const float*, int, Screening);
template Codes<double> encode_threshold(const Rows<double>&, const Dictionary<double>&, const double*, int, Screening);
template Codes<float> encode_batch_topk(const Rows<float>&, const Dictionary<float>&, int64_t, int, Screening);
template Codes<double> encode_batch_topk(const Rows<double>&, const Dictionary<double>&, int64_t, int, Screening);

}  // namespace sparse_sae
