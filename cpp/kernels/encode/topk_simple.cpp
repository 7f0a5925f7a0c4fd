#include "kernels/encode/screen/settle.h"
#include "kernels/encode/topk.h"

namespace sparse_sae {

template <class T>
Codes<T> encode_topk_simple(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads) {
    check_topk(dict, select);
    std::vector<std::vector<Entry<T>>> selected(static_cast<std::size_t>(rows.N));
    const auto keep = [&](int64_t n, std::vector<Entry<T>>& all) {
        thread_local std::vector<Entry<T>> scratch;
        selected[n].assign(all.begin(), all.begin() + select_exact(all.data(), dict.M, select, scratch));
    };
    if (few_rows(rows.N)) {  // the threads share the latents
        score_few_rows(rows, dict, num_threads, keep);
    } else {
        constexpr int64_t kBlock = 16;
        parallel_for((rows.N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
            std::vector<T> x(static_cast<std::size_t>(dict.D));
            std::vector<Entry<T>> all;
            for (int64_t n = block * kBlock; n < std::min(rows.N, (block + 1) * kBlock); ++n) {
                rows.read(x.data(), n);
                all.resize(static_cast<std::size_t>(dict.M));
                for (int64_t j = 0; j < dict.M; ++j) all[j].latent = static_cast<int32_t>(j);
                score(all.data(), dict.M, x.data(), dict);
                keep(n, all);
            }
        });
    }
    return gather_codes<T>(rows.N, num_threads, [&](int64_t n) {
        return std::pair(static_cast<const Entry<T>*>(selected[n].data()),
                         static_cast<const Entry<T>*>(selected[n].data()) + selected[n].size());
    });
}

template Codes<float> encode_topk_simple(const Rows<float>&, const Dictionary<float>&, TopK, int);
template Codes<double> encode_topk_simple(const Rows<double>&, const Dictionary<double>&, TopK, int);

}  // namespace sparse_sae
