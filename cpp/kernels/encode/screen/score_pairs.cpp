#include "kernels/encode/screen/score_pairs.h"

#include "kernels/common/cache.h"
#include "kernels/common/simd.h"

namespace sparse_sae {
namespace {

constexpr int64_t kAhead = 3;  // latents

}  // namespace

int64_t scored_rows(int64_t n_rows, int64_t D) {
    const int64_t most = std::clamp<int64_t>(second_cache() * 3 / 5 / (D * 4), 64, 1024);
    const int64_t blocks = ((n_rows + most - 1) / most + 7) / 8 * 8;
    return std::max<int64_t>(1, (n_rows + blocks - 1) / blocks);
}

void score_pairs(Pairs& pairs, const float* x, const Dictionary<float>& dict) {
    const int64_t D = dict.D, n_rows = pairs.n_rows();
    const int32_t total = pairs.from.back();
    std::vector<int32_t> end(static_cast<std::size_t>(dict.M) + 1, 0);  // of latent j's pairs, once counted and placed
    for (int32_t e = 0; e < total; ++e) ++end[pairs.latents[e] + 1];
    for (int64_t j = 0; j < dict.M; ++j) end[j + 1] += end[j];
    std::vector<int32_t> who(static_cast<std::size_t>(total));  // rows, latent by latent
    for (int64_t i = 0; i < n_rows; ++i)
        for (int32_t e = pairs.from[i]; e < pairs.from[i + 1]; ++e)
            who[end[pairs.latents[e]]++] = static_cast<int32_t>(i);
    pairs.values = buffer<float>(total);
    std::vector<int32_t> to(pairs.from.begin(), pairs.from.end() - 1);
    constexpr int64_t kMost = 64;
    float out[kMost];
    for (int64_t j = 0; j < dict.M; ++j) {
        if (j + kAhead < dict.M && end[j + kAhead] > end[j + kAhead - 1]) {
            const float* ahead = dict.row(j + kAhead);
            for (int64_t d = 0; d < D; d += 16) __builtin_prefetch(ahead + d, 0, 2);  // into the L2 cache
        }
        for (int32_t e = j ? end[j - 1] : 0; e < end[j]; e += kMost) {
            const int32_t count = std::min<int32_t>(kMost, end[j] - e);
            dot_many(out, dict.row(j), count, D, [&](int64_t i) { return x + who[e + i] * D; });
            for (int32_t i = 0; i < count; ++i) {
                const int32_t at = to[who[e + i]]++;
                pairs.values[at] = out[i] + dict.bias(j);
                pairs.latents[at] = static_cast<int32_t>(j);
            }
        }
    }
}

}  // namespace sparse_sae
