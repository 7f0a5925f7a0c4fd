#include "kernels/encode/screen/byte_topk.h"

#include <numeric>

#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/byte_settle.h"

namespace sparse_sae {
namespace {

constexpr int64_t kListBytes = 18 << 20;  // listed latents of a block of rows

// Raises the cuts of rows while latents are seen. When a share f of them has been, about k f of the k largest are among
// it, and almost surely fewer than k f + 2.5 sqrt(k f) + 2 =: r. So the r-th largest approximation seen is almost
// surely not above the k-th largest of all.
class Guesses {
  public:
    Guesses(ByteRows& rows, int64_t k) : rows_(rows), k_(k) {}

    void raise_all(double share, int num_threads) {
        share_ = share;
        constexpr int64_t kBlock = 64;
        parallel_for((rows_.count + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
            for (int64_t n = block * kBlock; n < std::min(rows_.count, (block + 1) * kBlock); ++n) raise(n, share);
        });
    }
    // For a list that is full before the next stop.
    void make_room(int64_t n) const { raise(n, std::min(1.0, std::max(share_, 1e-3) * 2)); }

  private:
    ByteRows& rows_;
    const int64_t k_;
    double share_ = 0;

    void raise(int64_t n, double share) const {
        ByteRow& row = rows_.row[n];
        const double expected = static_cast<double>(k_) * share;
        const int64_t rank = std::min(k_, static_cast<int64_t>(expected + 2.5 * std::sqrt(expected) + 2));
        if (row.full || row.found <= rank) return;
        thread_local std::vector<float> about, upper;
        about.resize(static_cast<std::size_t>(rows_.capacity));
        upper.resize(static_cast<std::size_t>(rows_.capacity));
        rows_.ends(n, about.data(), upper.data());
        row.cut = std::max(row.cut, reached_value(about.data(), row.found, rank, 12));
        rows_.drop_below_cut(n, upper.data());
        rows_.set_threshold(n);
    }
};

// The byte screen of one call, pass after pass: rows that a pass leaves undecided go to the next.
class Passes {
  public:
    Passes(Selected<float>& selected, ByteLatents& latents, const Rows<float>& rows, TopK select, Screening how,
           int num_threads)
        : selected_(selected), latents_(latents), rows_(rows), select_(select), how_(how), threads_(num_threads) {}

    void run() {
        Rest all(static_cast<std::size_t>(rows_.N));
        for (int64_t n = 0; n < rows_.N; ++n) all[n] = {static_cast<int32_t>(n), lowest()};
        const int64_t k = select_.k, small = 3 * k + 320, large = 16 * k + 3072;
        pass(all, small, true, &overflowed_);
        // Their lists were too short: they get longer ones, guessed again.
        const Rest longer = std::move(overflowed_);
        pass(longer, large, true, nullptr);
        // Their guess was too high: they are swept with a cut that is certain.
        const Rest again = std::move(missed_);
        pass(again, large, false, nullptr);
    }

  private:
    struct Row {
        int32_t n;
        float cut;
    };
    using Rest = std::vector<Row>;

    Selected<float>& selected_;
    ByteLatents& latents_;
    const Rows<float>& rows_;
    const TopK select_;
    const Screening how_;
    const int threads_;
    Rest missed_, overflowed_;

    float lowest() const { return select_.relu ? 0 : -std::numeric_limits<float>::infinity(); }

    // Sweeps and settles `all` in blocks whose lists have room for `most` latents. overflowed: where to put rows whose
    // list is too short; without it they are computed in full.
    void pass(const Rest& all, int64_t most, bool guess, Rest* overflowed) {
        constexpr int64_t C = kByteCols;
        const int64_t capacity = (std::min(latents_.dict.M, most) + C - 1) / C * C + C, packed = row_packing(how_).rows;
        const int64_t fit = std::max<int64_t>(256, kListBytes / (capacity * 8)) / packed * packed;
        for (auto from = all.begin(); from != all.end();) {
            const auto to = from + std::min<int64_t>(fit, all.end() - from);
            block(from, to, capacity, guess, overflowed);
            from = to;
        }
    }

    void block(Rest::const_iterator from, Rest::const_iterator to, int64_t capacity, bool guess, Rest* overflowed) {
        std::vector<int32_t> source;
        std::vector<float> cut;
        for (auto row = from; row != to; ++row) source.push_back(row->n), cut.push_back(row->cut);
        ByteRows block(latents_, rows_, how_, std::move(source), cut, capacity, threads_);
        Guesses guesses(block, select_.k);
        const std::vector<int64_t> stops =
            guess ? byte_stops(latents_.visits(), capacity) : std::vector<int64_t>{latents_.visits()};
        byte_sweep(
            latents_, block, stops, threads_, [&](double share) { guesses.raise_all(share, threads_); },
            [&](int64_t n) {
                if (guess) guesses.make_room(n);
                if (!block.list_is_full(n)) return;
                block.give_up(n);
                block.row[n].overflowed = overflowed != nullptr;
            });
        byte_settle(selected_, block, rows_, latents_.dict, select_, threads_);
        for (int64_t n = 0; n < block.count; ++n) {
            int32_t& chosen = selected_.count[block.source[n]];
            if (chosen >= 0) continue;
            if (block.row[n].overflowed)
                overflowed->push_back({block.source[n], lowest()}), chosen = 0;
            else
                missed_.push_back({block.source[n], block.row[n].cut});
        }
    }
};

}  // namespace

bool byte_topk(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, TopK select, Screening how,
               int num_threads) {
    if (select.absolute || dict.D > kByteInputs) return false;
    ByteLatents latents(rows, dict, nullptr, num_threads);
    if (!latents.usable()) return false;
    Selected<float> selected(rows.N, select.k);
    Passes(selected, latents, rows, select, how, num_threads).run();
    latents.release();  // before the codes are gathered, which takes as much as the selection again
    *codes = selected.codes(num_threads);
    return true;
}

}  // namespace sparse_sae
