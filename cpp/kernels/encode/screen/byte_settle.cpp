#include "kernels/encode/screen/byte_settle.h"

#include "kernels/encode/screen/score_pairs.h"

namespace sparse_sae {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// One block of rows that share the weights they read.
class Settling {
  public:
    Settling(Selected<float>& selected, ByteRows& rows, const Dictionary<float>& dict, TopK select)
        : selected_(selected),
          rows_(rows),
          dict_(dict),
          select_(select),
          about_(static_cast<std::size_t>(rows.capacity)),
          upper_(static_cast<std::size_t>(rows.capacity)) {}

    void run(int64_t first, int64_t count, const Rows<float>& input) {
        Pairs pairs(count, count * rows_.capacity);
        const Buffer<float> x = buffer<float>(count * dict_.D);
        std::vector<float> lowest(static_cast<std::size_t>(count));
        for (int64_t i = 0; i < count; ++i) {
            input.read(x.get() + i * dict_.D, rows_.source[first + i]);
            pairs.push(list_to_score(first + i, pairs.next(), lowest[i]));
        }
        score_pairs(pairs, x.get(), dict_);
        for (int64_t i = 0; i < count; ++i)
            choose(first + i, x.get() + i * dict_.D, pairs.latents.get() + pairs.from[i],
                   pairs.values.get() + pairs.from[i], pairs.from[i + 1] - pairs.from[i], lowest[i]);
    }

  private:
    Selected<float>& selected_;
    ByteRows& rows_;
    const Dictionary<float>& dict_;
    const TopK select_;
    std::vector<float> about_, upper_;
    std::vector<Entry<float>> entries_, scratch_;

    // The latents whose upper ends reach `lowest`, which is a little below the k-th largest approximation.
    int64_t list_to_score(int64_t n, int32_t* out, float& lowest) {
        const ByteRow& row = rows_.row[n];
        lowest = row.cut;
        if (row.full) return 0;
        rows_.ends(n, about_.data(), upper_.data());
        if (row.found > select_.k) {
            // Approximations are off by far less than their bound: about a part sqrt(D) of it.
            const float little = 0.75f / std::sqrt(static_cast<float>(dict_.D)) * (upper_[0] - about_[0]);
            lowest = std::max(lowest, reached_value(about_.data(), row.found, select_.k, 16) - little);
        }
        constexpr int L = kLanes<float>;
        int64_t count = 0;
        for (int32_t e = 0; e < row.found; e += L) {
            const std::uint32_t takes =
                lanes_reach(load(upper_.data() + e), lowest - vec<float>{}) & first_lanes(row.found - e);
            store_lanes<int32_t>(out + count, load(rows_.listed(n) + e), takes);
            count += __builtin_popcount(takes);
        }
        return count;
    }

    void choose(int64_t n, const float* x, const int32_t* latent, const float* value, int64_t size, float lowest) {
        ByteRow& row = rows_.row[n];
        int32_t& chosen = selected_.count[rows_.source[n]];
        entries_.clear();
        if (row.overflowed) {
            chosen = -1;
            return;
        }
        if (!row.full) {
            // `reached`: what k canonical values reach. All latents that may reach it too must have been scored, so it
            // must not be below what was listed and scored. What is not positive is not wanted with relu.
            float reached = size >= select_.k ? reached_value(value, size, select_.k, 30) : kNone;
            float needed = select_.relu ? std::max(reached, 0.0f) : reached;
            const bool few = size < select_.k;
            if (!few && needed < std::max(lowest, row.cut)) {  // the k-th largest may be a little higher
                const float kth = kth_largest(value, size);
                reached = std::max(reached, kth), needed = std::max(needed, kth);
            }
            if (needed >= lowest && needed >= row.cut && take_all(n, latent, value, size, reached)) return;
            for (int64_t e = 0; e < size; ++e) entries_.push_back({value[e], latent[e]});
            if (!(needed >= row.cut)) {
                if (!few && chosen >= 0) {
                    chosen = -1;
                    row.cut = needed;
                    return;
                }
                row.full = true;
            } else if (!(needed >= lowest)) {
                score_rest(n, x, needed, lowest);
            }
        }
        if (row.full) {
            selected_.fell_back[rows_.source[n]] = 1;
            entries_.clear();
            for (int64_t j = 0; j < dict_.M; ++j) entries_.push_back({0, static_cast<int32_t>(j)});
            score(entries_.data(), dict_.M, x, dict_);
        }
        const int64_t count = select_exact(entries_.data(), static_cast<int64_t>(entries_.size()), select_, scratch_);
        chosen = static_cast<int32_t>(count);
        std::copy_n(entries_.data(), count, selected_.entries.data() + rows_.source[n] * select_.k);
    }

    float kth_largest(const float* value, int64_t size) {
        about_.assign(value, value + size);
        std::nth_element(about_.begin(), about_.begin() + (select_.k - 1), about_.end(), std::greater<float>());
        const float kth = about_[select_.k - 1];
        about_.resize(static_cast<std::size_t>(rows_.capacity));
        return kth;
    }

    // Where at most k values reach `reached` they are the answer; false where more do.
    bool take_all(int64_t n, const int32_t* latent, const float* value, int64_t size, float reached) {
        int64_t reach = 0;
        for (int64_t e = 0; e < size; ++e) reach += value[e] >= reached;
        if (reach > select_.k) return false;
        Entry<float>* to = selected_.entries.data() + rows_.source[n] * select_.k;
        int32_t kept = 0;
        for (int64_t e = 0; e < size; ++e)
            if (value[e] >= reached && value[e] != 0 && !(select_.relu && value[e] < 0))
                to[kept++] = {value[e], latent[e]};
        selected_.count[rows_.source[n]] = kept;
        return true;
    }

    // Scores the listed latents that were left out, down to `needed`.
    void score_rest(int64_t n, const float* x, float needed, float lowest) {
        rows_.ends(n, about_.data(), upper_.data());
        const int32_t* listed = rows_.listed(n);
        for (int32_t e = 0; e < rows_.row[n].found; ++e)
            if (upper_[e] >= needed && !(upper_[e] >= lowest)) {
                const int32_t j = listed[e];
                entries_.push_back({dot(x, dict_.row(j), dict_.D) + dict_.bias(j), j});
            }
        std::sort(entries_.begin(), entries_.end(),
                  [](const Entry<float>& a, const Entry<float>& b) { return a.latent < b.latent; });
    }
};

}  // namespace

void byte_settle(Selected<float>& selected, ByteRows& block, const Rows<float>& rows, const Dictionary<float>& dict,
                 TopK select, int num_threads) {
    const int64_t together = scored_rows(block.count, dict.D);
    parallel_for((block.count + together - 1) / together, num_threads, [&](int64_t task) {
        const int64_t first = task * together;
        Settling(selected, block, dict, select).run(first, std::min(together, block.count - first), rows);
    });
}

}  // namespace sparse_sae
