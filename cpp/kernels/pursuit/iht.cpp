#include "kernels/pursuit/iht.h"

#include "kernels/pursuit/active.h"
#include "kernels/pursuit/collect.h"
#include "kernels/pursuit/correlate.h"

namespace sparse_sae {
namespace {

constexpr int kSweeps = 1000;  // of the refit

template <class T>
struct Hard {
    using Entries = std::vector<std::pair<int32_t, T>>;  // in the order of latents

    const T *x, *w;
    int64_t D, k;
    T step;
    Entries z, before, ahead;
    std::vector<T> residual;
    int64_t made = 0;
    bool done = false;

    Hard(const T* row, const T* dictionary, int64_t width, int64_t most, T size)
        : x(row), w(dictionary), D(width), k(most), step(size), residual(row, row + width) {}

    // c (M): products of the residual with all latents, within slack of the canonical ones. It is overwritten.
    void advance(T* c, T slack, int64_t M, int64_t n_steps) {
        // Scores over step. They are rounded on the way, and so are the scores themselves: what is within that of the
        // k-th is scored exactly.
        T reach = 0;
        for (const auto& [j, value] : ahead) {
            reach = std::max(reach, std::abs(value) / step + std::abs(c[j]));
            c[j] += value / step;
        }
        slack += 4 * std::numeric_limits<T>::epsilon() * std::max(reach, largest(c, M));
        slack += 4 * std::numeric_limits<T>::denorm_min() / step;
        // Those that were chosen before are k: the k-th largest of all is not below the least of them. The first time,
        // it is looked for.
        std::vector<T> best;
        for (const auto& [j, value] : z) best.push_back(c[j]);
        if (static_cast<int64_t>(best.size()) < k) {
            best.assign(c, c + M);
            std::nth_element(best.begin(), best.begin() + (k - 1), best.end(), std::greater<T>());
            best.resize(static_cast<std::size_t>(k));
        }
        const T limit = std::max(*std::min_element(best.begin(), best.end()) - 2 * slack, -slack);
        std::vector<std::pair<T, int32_t>> found;
        std::size_t at = 0;
        each_above(c, M, limit, [&](int64_t j) {
            while (at < ahead.size() && ahead[at].first < j) ++at;
            const T from = at < ahead.size() && ahead[at].first == j ? ahead[at].second : 0;
            const T score = from + step * dot(residual.data(), w + j * D, D);
            if (score > 0) found.emplace_back(-score, static_cast<int32_t>(j));
        });
        const std::size_t kept = std::min(found.size(), static_cast<std::size_t>(k));
        std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(kept), found.end());
        before.swap(z);
        z.clear();
        for (std::size_t i = 0; i < kept; ++i) z.emplace_back(found[i].second, -found[i].first);
        std::sort(z.begin(), z.end());
        done = ++made == n_steps || (z == before && ahead == before);
        look_ahead(static_cast<T>(made) / static_cast<T>(made + 3));
    }

    // y = z + momentum (z - before), and what it leaves of x.
    void look_ahead(T momentum) {
        ahead.clear();
        std::size_t a = 0, b = 0;
        while (a < z.size() || b < before.size()) {
            const bool of_z = b == before.size() || (a < z.size() && z[a].first <= before[b].first);
            const bool of_before = a == z.size() || (b < before.size() && before[b].first <= z[a].first);
            const int32_t j = of_z ? z[a].first : before[b].first;
            const T now = of_z ? z[a++].second : 0, then = of_before ? before[b++].second : 0;
            ahead.emplace_back(j, now + momentum * (now - then));
        }
        std::copy_n(x, D, residual.begin());
        subtract(residual.data(), D, [&](int32_t j) { return w + j * D; });
        if (dot(residual.data(), residual.data(), D) < std::numeric_limits<T>::infinity()) return;
        z.clear();  // steps too long for this dictionary have run away
        done = true;
    }

    template <class Row>
    void subtract(T* y, int64_t n, Row row) const {
        std::vector<T> minus(ahead.size());
        std::vector<const T*> rows(ahead.size());
        for (std::size_t i = 0; i < ahead.size(); ++i) minus[i] = -ahead[i].second, rows[i] = row(ahead[i].first);
        add_rows(y, minus.data(), rows.data(), static_cast<int64_t>(ahead.size()), n);
    }

    Entries refitted() const {
        Active<T> active(x, w, D);
        T scale = 0;
        for (const auto& [j, value] : z) {
            active.join(j, 0, nullptr);
            active.z.back() = value;
            scale = std::max(scale, std::abs(active.target.back()));
        }
        active.descend((sizeof(T) == 4 ? T(1e-6) : T(1e-12)) * scale, kSweeps);
        return active.codes(0);
    }
};

// One row by its products c0 (M) and the latents' with each other.
template <class T>
void solve(Hard<T>& row, const T* c0, const T* gram, int64_t M, int64_t n_steps, std::vector<T>& c) {
    const T norm = norm_bound(row.x, row.D);
    while (!row.done) {
        c.assign(c0, c0 + M);
        row.subtract(c.data(), M, [&](int32_t j) { return gram + j * M; });
        T reach = norm;
        for (const auto& entry : row.ahead) reach += std::abs(entry.second);
        row.advance(c.data(), slack_of(reach, static_cast<int64_t>(row.ahead.size()), row.D), M, n_steps);
    }
}

// A tile of rows, each step one pass over the dictionary for all that are not done.
template <class T>
void solve(std::vector<Hard<T>>& tile, const T* w, int64_t M, int64_t D, int64_t n_steps) {
    std::vector<Hard<T>*> open;
    for (Hard<T>& row : tile)
        if (!row.done) open.push_back(&row);
    std::vector<T> residual(open.size() * D), c(open.size() * M);
    while (!open.empty()) {
        for (std::size_t r = 0; r < open.size(); ++r) std::copy_n(open[r]->residual.data(), D, &residual[r * D]);
        correlate_into(c.data(), residual.data(), static_cast<int64_t>(open.size()), w, M, D);
        for (std::size_t r = 0; r < open.size(); ++r) open[r]->advance(&c[r * M], 0, M, n_steps);
        open.erase(std::remove_if(open.begin(), open.end(), [](const Hard<T>* row) { return row->done; }), open.end());
    }
}

}  // namespace

template <class T>
Codes<T> encode_iht(const Rows<T>& rows, const T* w, int64_t M, int64_t k, T step, int64_t n_steps, bool simple,
                    int num_threads) {
    const int64_t N = rows.N, D = rows.D;
    if (k < 1 || k > M) throw std::invalid_argument("k: " + std::to_string(k) + ", expected 1 to " + std::to_string(M));
    if (n_steps < 1) throw std::invalid_argument("n_steps: " + std::to_string(n_steps) + ", expected at least 1");
    if (!(step > 0 && step <= 1))
        throw std::invalid_argument("step: " + std::to_string(step) + ", expected above 0, at most 1");
    check_unit_rows(w, M, D);
    const bool by_gram = !simple && M <= kGramEntries / M && N * n_steps > M;
    const std::vector<T> gram = by_gram ? gram_matrix(w, M, D, num_threads) : std::vector<T>();
    Found<T> found(static_cast<std::size_t>(N));
    parallel_for((N + kTile - 1) / kTile, num_threads, [&](int64_t block) {
        const int64_t first = block * kTile, R = std::min(kTile, N - first);
        const std::vector<T> x = read_tile(rows, first, R);
        std::vector<Hard<T>> tile;
        for (int64_t r = 0; r < R; ++r) tile.emplace_back(&x[r * D], w, D, k, step);
        if (by_gram) {
            std::vector<T> c0(static_cast<std::size_t>(R * M)), c;
            correlate_into(c0.data(), x.data(), R, w, M, D);
            for (int64_t r = 0; r < R; ++r) solve(tile[r], &c0[r * M], gram.data(), M, n_steps, c);
        } else {
            solve(tile, w, M, D, n_steps);
        }
        for (int64_t r = 0; r < R; ++r) found[first + r] = tile[r].refitted();
    });
    return collect(found);
}

#define INSTANTIATE(T) template Codes<T> encode_iht(const Rows<T>&, const T*, int64_t, int64_t, T, int64_t, bool, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
