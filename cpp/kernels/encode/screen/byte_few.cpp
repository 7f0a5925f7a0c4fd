#include "kernels/encode/screen/byte_few.h"

#include "kernels/encode/screen/byte_approximate.h"
#include "kernels/encode/screen/byte_rows.h"
#include "kernels/encode/screen/settle.h"

namespace sparse_sae {
namespace {

constexpr int L = kLanes<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Canonical values of listed latents. The threads share the dictionary, so that a latent that several rows list is
// read from memory once.
void score_lists(std::vector<std::vector<Entry<float>>>& lists, const FewRows& rows, const Dictionary<float>& dict,
                 int num_threads) {
    int64_t total = 0;
    for (const auto& list : lists) total += static_cast<int64_t>(list.size());
    const int64_t tasks = std::clamp<int64_t>(total / kScored, 1, dict.M), range = (dict.M + tasks - 1) / tasks;
    const auto before = [](const Entry<float>& e, int64_t latent) { return e.latent < latent; };
    parallel_for((dict.M + range - 1) / range, num_threads, [&](int64_t task) {
        for (int64_t n = 0; n < static_cast<int64_t>(lists.size()); ++n) {
            auto& list = lists[n];
            const auto from = std::lower_bound(list.begin(), list.end(), task * range, before);
            const auto to = std::lower_bound(from, list.end(), (task + 1) * range, before);
            if (from != to) score(&*from, to - from, rows.input(n), dict);
        }
    });
}

void list_all(std::vector<Entry<float>>& list, int64_t M) {
    list.clear();
    for (int64_t j = 0; j < M; ++j) list.push_back({0, static_cast<int32_t>(j)});
}

// Latents whose canonical values may reach at(j) (a vector of L from j on), in order.
template <class At>
void list_reaching(std::vector<Entry<float>>& list, const FewRows& rows, int64_t n, int64_t M, At at) {
    list.clear();
    for (int64_t j = 0; j < M; j += L) {
        std::uint32_t hits = lanes_reach(load(rows.about(n) + j) + rows.off(n, j), at(j)) & first_lanes(M - j);
        for (; hits; hits &= hits - 1) list.push_back({0, static_cast<int32_t>(j + __builtin_ctz(hits))});
    }
}

}  // namespace

bool few_topk_kept(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, TopK select,
                   Screening how, int num_threads) {
    const FewRows few(*dict.kept, rows, dict, how, num_threads);
    if (!few.usable()) return false;
    const int64_t N = rows.N, M = dict.M;
    std::vector<std::vector<Entry<float>>> lists(static_cast<std::size_t>(N));
    // What all listed have been told to reach; below everything once a row has been computed in full.
    std::vector<float> lowest(static_cast<std::size_t>(N), -kInfinity);
    std::vector<char> done(static_cast<std::size_t>(N), 0), full(static_cast<std::size_t>(N), 0);
    std::vector<float> values;
    for (int64_t n = 0; n < N; ++n) {
        // Approximations are off by far less than their bound: about a part sqrt(D) of it.
        const float little = 0.75f / std::sqrt(static_cast<float>(dict.D)) * few.off(n, 0)[0];
        lowest[n] = reached_value(few.about(n), M, select.k, 20) - little;
        if (select.relu) lowest[n] = std::max(lowest[n], 0.0f);
    }
    for (int64_t left = N; left > 0;) {
        for (int64_t n = 0; n < N; ++n) {
            if (done[n]) continue;
            full[n] |= few.undecided(n);
            if (!full[n]) list_reaching(lists[n], few, n, M, [&](int64_t) { return lowest[n] - vec<float>{}; });
            full[n] |= 4 * static_cast<int64_t>(lists[n].size()) > M + 4 * select.k;
            if (full[n]) list_all(lists[n], M), lowest[n] = -kInfinity;
        }
        std::vector<std::vector<Entry<float>>> waiting(static_cast<std::size_t>(N));
        for (int64_t n = 0; n < N; ++n)
            if (!done[n]) waiting[n].swap(lists[n]);
        score_lists(waiting, few, dict, num_threads);
        for (int64_t n = 0; n < N; ++n) {
            if (done[n]) continue;
            lists[n].swap(waiting[n]);
            // What k canonical values reach; with relu nothing below 0 is wanted.
            float needed = select.relu ? 0 : -kInfinity;
            if (static_cast<int64_t>(lists[n].size()) >= select.k) {
                values.clear();
                for (const Entry<float>& e : lists[n]) values.push_back(e.value == e.value ? e.value : -kInfinity);
                std::nth_element(values.begin(), values.begin() + (select.k - 1), values.end(), std::greater<float>());
                needed = std::max(needed, values[select.k - 1]);
            }
            done[n] = full[n] || needed >= lowest[n];
            left -= done[n];
            lowest[n] = needed;  // certain: the second list holds the answer
        }
    }
    std::vector<Entry<float>> scratch;
    for (auto& list : lists)
        list.resize(
            static_cast<std::size_t>(select_exact(list.data(), static_cast<int64_t>(list.size()), select, scratch)));
    *codes = gather_codes<float>(N, 1, [&](int64_t n) {
        return std::pair(static_cast<const Entry<float>*>(lists[n].data()), lists[n].data() + lists[n].size());
    });
    codes->fallbacks = std::count(full.begin(), full.end(), 1);
    return true;
}

bool few_above_kept(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, const float* threshold,
                    Screening how, int num_threads) {
    const FewRows few(*dict.kept, rows, dict, how, num_threads);
    if (!few.usable()) return false;
    const int64_t N = rows.N, M = dict.M;
    std::vector<std::vector<Entry<float>>> lists(static_cast<std::size_t>(N));
    const auto limit = [&](int64_t j) {
        if (!threshold || j + L <= M) return threshold ? load(threshold + j) : vec<float>{};
        vec<float> some{};
        for (int64_t i = j; i < M; ++i) some[i - j] = threshold[i];
        return some;
    };
    int64_t in_full = 0;
    for (int64_t n = 0; n < N; ++n) {
        const bool full = few.undecided(n);
        in_full += full;
        if (full)
            list_all(lists[n], M);
        else
            list_reaching(lists[n], few, n, M, limit);
    }
    score_lists(lists, few, dict, num_threads);
    for (auto& list : lists)
        list.erase(std::remove_if(list.begin(), list.end(),
                                  [&](const Entry<float>& e) {
                                      return !(e.value > (threshold ? threshold[e.latent] : 0.0f)) || e.value == 0;
                                  }),
                   list.end());
    *codes = gather_codes<float>(N, 1, [&](int64_t n) {
        return std::pair(static_cast<const Entry<float>*>(lists[n].data()), lists[n].data() + lists[n].size());
    });
    codes->fallbacks = in_full;
    return true;
}

}  // namespace sparse_sae
