#include "kernels/encode/screen/byte_threshold.h"

#include <numeric>

#include "kernels/encode/entries.h"
#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/score_pairs.h"

namespace sparse_sae {
namespace {

constexpr int64_t kListed = 1024;         // latents that a row's list has room for
constexpr int64_t kListBytes = 16 << 20;  // listed latents of a block of rows

// Keeps of the listed latents of rows [first, first + count) of the block what exceeds its threshold.
void keep_above(std::vector<std::vector<Entry<float>>>& kept, const ByteRows& block, int64_t first, int64_t count,
                const Rows<float>& rows, const Dictionary<float>& dict, const float* threshold) {
    Pairs pairs(count, count * block.capacity);
    const Buffer<float> x = buffer<float>(count * dict.D);
    for (int64_t i = 0; i < count; ++i) {
        rows.read(x.get() + i * dict.D, block.source[first + i]);
        std::copy_n(block.listed(first + i), block.row[first + i].found, pairs.next());
        pairs.push(block.row[first + i].found);
    }
    score_pairs(pairs, x.get(), dict);
    std::vector<Entry<float>> all;
    for (int64_t i = 0; i < count; ++i) {
        all.clear();
        if (block.row[first + i].full) {
            for (int64_t j = 0; j < dict.M; ++j) all.push_back({0, static_cast<int32_t>(j)});
            score(all.data(), dict.M, x.get() + i * dict.D, dict);
        } else {
            for (int32_t e = pairs.from[i]; e < pairs.from[i + 1]; ++e)
                all.push_back({pairs.values[e], pairs.latents[e]});
        }
        std::vector<Entry<float>>& mine = kept[block.source[first + i]];
        for (const Entry<float>& e : all)
            if (e.value > (threshold ? threshold[dict.at(e.latent)] : 0.0f) && e.value != 0) mine.push_back(e);
    }
}

}  // namespace

bool byte_threshold(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, const float* threshold,
                    Screening how, int num_threads) {
    if (dict.D > kByteInputs) return false;
    ByteLatents latents(rows, dict, threshold, num_threads);
    if (!latents.usable()) return false;
    constexpr int64_t C = kByteCols;
    const int64_t capacity = (std::min(dict.M, kListed) + C - 1) / C * C + C;
    const int64_t packed = row_packing(how).rows;
    const int64_t fit = std::max<int64_t>(256, kListBytes / (capacity * 8)) / packed * packed;
    std::vector<std::vector<Entry<float>>> kept(static_cast<std::size_t>(rows.N));
    int64_t in_full = 0;
    for (int64_t n0 = 0; n0 < rows.N; n0 += fit) {
        std::vector<int32_t> source(static_cast<std::size_t>(std::min(fit, rows.N - n0)));
        std::iota(source.begin(), source.end(), static_cast<int32_t>(n0));
        const std::vector<float> cut(source.size(), 0.0f);  // of what is left after the threshold
        ByteRows block(latents, rows, how, std::move(source), cut, capacity, num_threads);
        byte_sweep(
            latents, block, {latents.visits()}, num_threads, [](double) {}, [&](int64_t n) { block.give_up(n); });
        const int64_t together = scored_rows(block.count, dict.D);
        parallel_for((block.count + together - 1) / together, num_threads, [&](int64_t task) {
            const int64_t first = task * together;
            keep_above(kept, block, first, std::min(together, block.count - first), rows, dict, threshold);
        });
        for (int64_t n = 0; n < block.count; ++n) in_full += block.row[n].full;
    }
    latents.release();
    *codes = gather_codes<float>(rows.N, num_threads,
                                 [&](int64_t n) { return std::pair(kept[n].data(), kept[n].data() + kept[n].size()); });
    codes->fallbacks = in_full;
    return true;
}

}  // namespace sparse_sae
