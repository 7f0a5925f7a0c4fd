#include "kernels/pursuit/lasso.h"

#include "kernels/pursuit/active.h"
#include "kernels/pursuit/collect.h"
#include "kernels/pursuit/correlate.h"

namespace sparse_sae {
namespace {

constexpr int kSweeps = 500;     // of one descent
constexpr int kPasses = 500;     // over the dictionary, of one row: beyond it the gap says how far it came
constexpr double kShare = 0.5;   // of the largest violation: latents beyond it join
constexpr int64_t kJoiners = 8;  // at once, or as many as have joined already

template <class T>
struct Lasso {
    Active<T> active;
    std::vector<T> residual, products;
    T penalty, squared, scale = 0, fine;
    double gap = 0, enough;
    int64_t rounds;
    int passes = 0;
    bool done = false, settled = false;  // whether the last descent ended by itself

    Lasso(const T* x, const T* w, int64_t D, T cost, int64_t more, double tolerance)
        : active(x, w, D), residual(x, x + D), penalty(cost), squared(dot(x, x, D)), rounds(more) {
        enough = tolerance * 0.5 * static_cast<double>(squared);
        fine = cost;
    }

    // One look at the dictionary. c (M): products of the residual with all latents, within slack of the canonical ones,
    // and minus infinity for those that have joined. gram: w w^T (M, M) or null.
    void advance(const T* c, T slack, const T* gram, int64_t M) {
        const T top = largest_outside(c, slack, M);
        gap = gap_for(top);
        const bool exact = settled && fine <= floor();
        if (gap <= enough || (exact && top <= penalty) || ++passes > kPasses) {
            if (rounds == 0 || passes > kPasses) {
                done = true;
                return;
            }
            reprice();
        } else if (top > penalty) {
            join(c, slack, top, gram, M);
            fine = std::max(floor(), (top - penalty) / 10);
        } else {
            fine = std::max(floor(), fine / 10);
        }
        settled = active.descend(fine, kSweeps);
        active.drop(penalty);
        active.residual_into(residual.data());
    }

    T floor() const { return (sizeof(T) == 4 ? T(1e-7) : T(1e-15)) * scale; }

    T product(int64_t j) const { return dot(residual.data(), active.w + j * active.D, active.D); }

    // The largest product of a latent that has not joined, or 0 where none exceeds the penalty.
    T largest_outside(const T* c, T slack, int64_t M) const {
        const T most = largest(c, M);
        T top = 0;
        if (most + slack > penalty)
            each_above(c, M, most - 2 * slack, [&](int64_t j) { top = std::max(top, product(j)); });
        return top > penalty ? top : 0;
    }

    // Residual times s is feasible for the dual; of x = residual + z w follows the gap, a sum of what is not negative:
    // 1/2 |r|^2 (1 - s)^2 + sum z (price - s product).
    double gap_for(T top) {
        const int64_t K = active.size();
        products.resize(K);
        dot_many(products.data(), residual.data(), K, active.D, [&](int64_t i) { return active.atoms[i]; });
        double s = top > penalty ? static_cast<double>(penalty) / top : 1;
        for (int64_t i = 0; i < K; ++i)
            if (products[i] > active.price[i]) s = std::min(s, static_cast<double>(active.price[i]) / products[i]);
        const double left = dot(residual.data(), residual.data(), active.D);
        double sum = 0.5 * left * (1 - s) * (1 - s);
        for (int64_t i = 0; i < K; ++i) sum += active.z[i] * (active.price[i] - s * products[i]);
        return std::max(sum, 0.0);
    }

    void join(const T* c, T slack, T top, const T* gram, int64_t M) {
        const T least = penalty + static_cast<T>(kShare) * (top - penalty);
        std::vector<std::pair<T, int64_t>> found;  // the strongest first; ties: the lower latent
        each_above(c, M, least - slack, [&](int64_t j) {
            if (const T value = product(j); value >= least) found.emplace_back(-value, j);
        });
        std::sort(found.begin(), found.end());
        const std::size_t most = static_cast<std::size_t>(std::max(kJoiners, active.size()));
        if (found.size() > most) found.resize(most);
        for (const auto& [minus, j] : found) {
            active.join(j, penalty, gram ? gram + j * M : nullptr);
            scale = std::max(scale, std::abs(active.target.back()));
        }
    }

    void reprice() {
        const T v = penalty / 4;
        --rounds;
        passes = 0;
        std::fill(active.price.begin(), active.price.end(), penalty);
        active.drop(penalty);
        for (int64_t i = 0; i < active.size(); ++i) active.price[i] = penalty * v / (v + active.z[i]);
        fine = std::max(floor(), penalty / 100);
    }
};

// One row by its products c0 (M) and the latents' with each other.
template <class T>
void solve(Lasso<T>& row, const T* c0, const T* gram, int64_t M, std::vector<T>& c) {
    const Active<T>& a = row.active;
    const T norm = norm_bound(a.x, a.D);
    while (!row.done) {
        c.assign(c0, c0 + M);
        a.subtract(c.data(), M, [&](std::size_t i) { return gram + a.latents[i] * M; });
        for (const int32_t j : a.latents) c[j] = -std::numeric_limits<T>::infinity();
        T reach = norm;
        for (const T z : a.z) reach += z;
        row.advance(c.data(), slack_of(reach, a.size(), a.D), gram, M);
    }
}

// A tile of rows, each look one pass over the dictionary for all that are not done.
template <class T>
void solve(std::vector<Lasso<T>>& tile, const T* w, int64_t M, int64_t D) {
    std::vector<Lasso<T>*> open;
    for (Lasso<T>& row : tile)
        if (!row.done) open.push_back(&row);
    std::vector<T> residual(open.size() * D), c(open.size() * M);
    while (!open.empty()) {
        for (std::size_t r = 0; r < open.size(); ++r) std::copy_n(open[r]->residual.data(), D, &residual[r * D]);
        correlate_into(c.data(), residual.data(), static_cast<int64_t>(open.size()), w, M, D);
        for (std::size_t r = 0; r < open.size(); ++r) {
            for (const int32_t j : open[r]->active.latents) c[r * M + j] = -std::numeric_limits<T>::infinity();
            open[r]->advance(&c[r * M], 0, static_cast<const T*>(nullptr), M);
        }
        open.erase(std::remove_if(open.begin(), open.end(), [](const Lasso<T>* row) { return row->done; }), open.end());
    }
}

}  // namespace

template <class T>
Codes<T> encode_lasso(std::vector<T>& gaps, const Rows<T>& rows, const T* w, int64_t M, T penalty, int64_t rounds,
                      double tolerance, bool simple, int num_threads) {
    const int64_t N = rows.N, D = rows.D;
    if (!(penalty > 0 && penalty < std::numeric_limits<T>::infinity()))
        throw std::invalid_argument("penalty: " + std::to_string(penalty) + ", expected a finite number above 0");
    check_unit_rows(w, M, D);
    const bool by_gram = !simple && M <= kGramEntries / M && N * 16 > M;
    const std::vector<T> gram = by_gram ? gram_matrix(w, M, D, num_threads) : std::vector<T>();
    Found<T> found(static_cast<std::size_t>(N));
    gaps.assign(static_cast<std::size_t>(N), 0);
    parallel_for((N + kTile - 1) / kTile, num_threads, [&](int64_t block) {
        const int64_t first = block * kTile, R = std::min(kTile, N - first);
        const std::vector<T> x = read_tile(rows, first, R);
        std::vector<Lasso<T>> tile;
        for (int64_t r = 0; r < R; ++r) {
            tile.emplace_back(&x[r * D], w, D, penalty, rounds, tolerance);
            tile.back().done = tile.back().squared == 0 && norm_bound(&x[r * D], D) <= penalty;
        }
        if (by_gram) {
            std::vector<T> c0(static_cast<std::size_t>(R * M)), c;
            correlate_into(c0.data(), x.data(), R, w, M, D);
            for (int64_t r = 0; r < R; ++r) solve(tile[r], &c0[r * M], gram.data(), M, c);
        } else {
            solve(tile, w, M, D);
        }
        for (int64_t r = 0; r < R; ++r) {
            found[first + r] = tile[r].active.codes(tile[r].floor());
            if (tile[r].squared > 0) gaps[first + r] = static_cast<T>(2 * tile[r].gap / tile[r].squared);
        }
    });
    return collect(found);
}

#define INSTANTIATE(T) \
    template Codes<T> encode_lasso(std::vector<T>&, const Rows<T>&, const T*, int64_t, T, int64_t, double, bool, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
