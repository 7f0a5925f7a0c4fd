#include "kernels/encode/screen/byte_batch.h"

#include <numeric>

#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/score_pairs.h"

namespace sparse_sae {
namespace {

constexpr int64_t kListBytes = 32 << 20;  // listed latents of all rows
constexpr int64_t kBlock = 64;            // rows of a task
constexpr int64_t kMostInFull = 50;       // one row in so many: with more, floats are less work

// The listed pairs of all rows, one row after the other.
struct Ends {
    std::vector<int64_t> from;
    Buffer<float> about, upper;  // with room for a vector beyond the last

    Ends(const ByteRows& block, int num_threads) : from(1, 0) {
        for (int64_t n = 0; n < block.count; ++n) from.push_back(from.back() + block.row[n].found);
        about = buffer<float>(from.back() + kLanes<float>);
        upper = buffer<float>(from.back() + kLanes<float>);
        std::fill_n(upper.get() + from.back(), kLanes<float>, 0.0f);
        parallel_for((block.count + kBlock - 1) / kBlock, num_threads, [&](int64_t task) {
            for (int64_t n = task * kBlock; n < std::min(block.count, (task + 1) * kBlock); ++n)
                block.ends(n, about.get() + from[n], upper.get() + from[n]);
        });
    }
    int64_t count() const { return from.back(); }
};

class Batch {
  public:
    Batch(ByteRows& block, int64_t total, float cut, int num_threads)
        : block_(block), total_(total), cut_(cut), threads_(num_threads) {}

    // Raises the common cut when a share of the latents has been seen: as for single rows (byte_topk.cpp), but latents
    // differ in how often they are large, so a part more is allowed for.
    void raise(double share) {
        const double expected = 1.2 * static_cast<double>(total_) * share;
        const int64_t rank = std::min(total_, static_cast<int64_t>(expected + 4 * std::sqrt(expected) + 2));
        const Ends ends(block_, threads_);
        if (ends.count() <= rank) return;
        cut_ = std::max(cut_, reached_value(ends.about.get(), ends.count(), rank, 14));
        parallel_for((block_.count + kBlock - 1) / kBlock, threads_, [&](int64_t task) {
            for (int64_t n = task * kBlock; n < std::min(block_.count, (task + 1) * kBlock); ++n) {
                block_.row[n].cut = cut_;
                block_.drop_below_cut(n, ends.upper.get() + ends.from[n]);
                block_.set_threshold(n);
            }
        });
    }

    // True: found holds the answer. False: the cut was too high, and is now one that `total` canonical values reach.
    bool settle(std::vector<std::vector<Entry<float>>>& found, const Rows<float>& rows, const Dictionary<float>& dict) {
        float lowest = cut_;
        {
            const Ends ends(block_, threads_);
            if (ends.count() > total_) {
                double errors = 0;
                for (int64_t e = 0; e < ends.count(); e += 64)
                    errors += static_cast<double>(ends.upper[e]) - static_cast<double>(ends.about[e]);
                const double mean = errors / static_cast<double>((ends.count() + 63) / 64);
                // Approximations are off by far less than their bound: about a part sqrt(D) of it.
                const float little = static_cast<float>(0.75 * mean / std::sqrt(static_cast<double>(dict.D)));
                lowest = std::max(lowest, reached_value(ends.about.get(), ends.count(), total_, 20) - little);
            }
        }
        for (;;) {
            score(found, rows, dict, lowest);
            const float needed = std::max(0.0f, last_value(found));
            if (needed < cut_) {
                cut_ = needed;
                return false;
            }
            if (needed >= lowest) return true;
            lowest = needed;
        }
    }
    float cut() const { return cut_; }

  private:
    ByteRows& block_;
    const int64_t total_;
    float cut_;
    const int threads_;

    // found = canonical values above zero of the pairs whose upper ends reach `lowest`, and of rows computed in full.
    void score(std::vector<std::vector<Entry<float>>>& found, const Rows<float>& rows, const Dictionary<float>& dict,
               float lowest) const {
        const int64_t together = scored_rows(block_.count, dict.D);
        parallel_for((block_.count + together - 1) / together, threads_, [&](int64_t task) {
            const int64_t first = task * together, n_rows = std::min(together, block_.count - first);
            Pairs pairs(n_rows, n_rows * block_.capacity);
            const Buffer<float> x = buffer<float>(n_rows * dict.D);
            std::vector<float> about(static_cast<std::size_t>(block_.capacity)), upper(about.size());
            for (int64_t i = 0; i < n_rows; ++i) {
                rows.read(x.get() + i * dict.D, first + i);
                block_.ends(first + i, about.data(), upper.data());
                const int32_t* listed = block_.listed(first + i);
                int32_t* out = pairs.next();
                int64_t count = 0;
                for (int32_t e = 0; e < block_.row[first + i].found; ++e)
                    if (upper[e] >= lowest) out[count++] = listed[e];
                pairs.push(count);
            }
            score_pairs(pairs, x.get(), dict);
            for (int64_t i = 0; i < n_rows; ++i) {
                std::vector<Entry<float>>& mine = found[first + i];
                mine.clear();
                if (block_.row[first + i].full) {
                    for (int64_t j = 0; j < dict.M; ++j) mine.push_back({0, static_cast<int32_t>(j)});
                    sparse_sae::score(mine.data(), dict.M, x.get() + i * dict.D, dict);
                } else {
                    for (int32_t e = pairs.from[i]; e < pairs.from[i + 1]; ++e)
                        mine.push_back({pairs.values[e], pairs.latents[e]});
                }
                mine.erase(
                    std::remove_if(mine.begin(), mine.end(), [](const Entry<float>& e) { return !(e.value > 0); }),
                    mine.end());
                mine.shrink_to_fit();
            }
        });
    }

    // The total-th largest of the values found; 0 where there are fewer.
    float last_value(const std::vector<std::vector<Entry<float>>>& found) const {
        std::vector<float> values;
        for (const auto& row : found)
            for (const Entry<float>& e : row) values.push_back(e.value);
        if (static_cast<int64_t>(values.size()) < total_) return 0;
        std::nth_element(values.begin(), values.begin() + (total_ - 1), values.end(), std::greater<float>());
        return values[total_ - 1];
    }
};

}  // namespace

bool byte_batch_topk(std::vector<std::vector<Entry<float>>>& found, const Rows<float>& rows,
                     const Dictionary<float>& dict, int64_t total, Screening how, int num_threads) {
    if (dict.D > kByteInputs || rows.N == 0 || total > rows.N * dict.M / 8) return false;
    constexpr int64_t C = kByteCols;
    const int64_t per_row = (total + rows.N - 1) / rows.N;
    const int64_t capacity = (std::min(dict.M, 4 * per_row + 384) + C - 1) / C * C + C;
    if (rows.N * capacity * 8 > kListBytes) return false;
    ByteLatents latents(rows, dict, nullptr, num_threads);
    if (!latents.usable()) return false;
    found.resize(static_cast<std::size_t>(rows.N));
    std::vector<int64_t> stops = byte_stops(latents.visits(), capacity);
    float cut = 0;
    for (int sweeps = 0; sweeps < 2; ++sweeps) {
        std::vector<int32_t> source(static_cast<std::size_t>(rows.N));
        std::iota(source.begin(), source.end(), 0);
        ByteRows block(latents, rows, how, std::move(source), std::vector<float>(static_cast<std::size_t>(rows.N), cut),
                       capacity, num_threads);
        Batch batch(block, total, cut, num_threads);
        byte_sweep(
            latents, block, stops, num_threads, [&](double share) { batch.raise(share); },
            [&](int64_t n) { block.give_up(n); });
        int64_t in_full = 0;
        for (int64_t n = 0; n < block.count; ++n) in_full += block.row[n].full;
        if (kMostInFull * in_full > rows.N) return false;
        if (batch.settle(found, rows, dict)) return true;
        cut = batch.cut();
        stops = {latents.visits()};  // nothing is guessed this time
    }
    return false;
}

}  // namespace sparse_sae
