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

}  // namespace

bool byte_topk(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, TopK select, Screening how,
               int num_threads) {
    if (select.absolute || dict.D > kByteInputs) return false;
    ByteLatents latents(rows, dict, nullptr, num_threads);
    if (!latents.usable()) return false;
    constexpr int64_t C = kByteCols;
    const int64_t capacity = (std::min(dict.M, 4 * select.k + 384) + C - 1) / C * C + C;
    const int64_t packed = row_packing(how).rows;
    const int64_t fit = std::max<int64_t>(256, kListBytes / (capacity * 8)) / packed * packed;
    const std::vector<int64_t> stops = byte_stops(latents.visits(), capacity);
    const float lowest = select.relu ? 0 : -std::numeric_limits<float>::infinity();
    Selected<float> selected(rows.N, select.k);
    for (int64_t n0 = 0; n0 < rows.N; n0 += fit) {
        std::vector<int32_t> missed;  // rows whose guess was too high, and cuts that are certain
        std::vector<float> certain;
        {
            std::vector<int32_t> source(static_cast<std::size_t>(std::min(fit, rows.N - n0)));
            std::iota(source.begin(), source.end(), static_cast<int32_t>(n0));
            const std::vector<float> cut(source.size(), lowest);
            ByteRows block(latents, rows, how, std::move(source), cut, capacity, num_threads);
            Guesses guesses(block, select.k);
            byte_sweep(
                latents, block, stops, num_threads, [&](double share) { guesses.raise_all(share, num_threads); },
                [&](int64_t n) {
                    guesses.make_room(n);
                    if (block.list_is_full(n)) block.give_up(n);
                });
            byte_settle(selected, block, rows, dict, select, num_threads);
            for (int64_t n = 0; n < block.count; ++n)
                if (selected.count[block.source[n]] < 0) {
                    missed.push_back(block.source[n]);
                    certain.push_back(block.row[n].cut);
                }
        }
        if (missed.empty()) continue;
        ByteRows block(latents, rows, how, std::move(missed), certain, capacity, num_threads);
        byte_sweep(
            latents, block, {latents.visits()}, num_threads, [](double) {}, [&](int64_t n) { block.give_up(n); });
        byte_settle(selected, block, rows, dict, select, num_threads);
    }
    latents.release();  // before the codes are gathered, which takes as much as the selection again
    *codes = selected.codes(num_threads);
    return true;
}

}  // namespace sparse_sae
