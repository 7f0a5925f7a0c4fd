#include "kernels/update/adam.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/common/panels.h"

namespace sparse_sae {
namespace {

constexpr int64_t kLatentBlock = 32;

template <class T>
struct Constants {
    T beta1, rest1, beta2, rest2, rate, unbias2, eps, scale;
    explicit Constants(const Adam& a)
        : beta1(static_cast<T>(a.beta1)),
          rest1(static_cast<T>(1 - a.beta1)),
          beta2(static_cast<T>(a.beta2)),
          rest2(static_cast<T>(1 - a.beta2)),
          rate(static_cast<T>(a.lr / (1 - std::pow(a.beta1, static_cast<double>(a.step))))),
          unbias2(static_cast<T>(1 / (1 - std::pow(a.beta2, static_cast<double>(a.step))))),
          eps(static_cast<T>(a.eps)),
          scale(static_cast<T>(a.scale)) {}
};

template <class T>
void remove_parallel(T* grad, const T* w, int64_t D) {
    const T along = dot(grad, w, D);
    for (int64_t d = 0; d < D; ++d) grad[d] -= along * w[d];
}

template <class T>
void adam_row(T* w, T* m, T* v, const T* grad, const Constants<T>& c, int64_t D) {
    for (int64_t d = 0; d < D; ++d) {
        const T g = grad[d] * c.scale;
        m[d] = c.beta1 * m[d] + c.rest1 * g;
        v[d] = c.beta2 * v[d] + c.rest2 * g * g;
        w[d] -= c.rate * m[d] / (std::sqrt(v[d] * c.unbias2) + c.eps);
    }
}

template <class T>
void normalise(T* w, int64_t D) {
    const T length = std::sqrt(dot(w, w, D));
    if (!(length > 0)) return;
    const T inverse = 1 / length;
    for (int64_t d = 0; d < D; ++d) w[d] *= inverse;
}

// Sums for the latents [j0, j1) of what u.dense contributes, into grad (j1 - j0, D).
template <class T>
void dense_part(T* grad, const RowUpdate<T>& u, const ByLatent& order, int64_t j0, int64_t j1,
                const Panels<T>* panels) {
    std::fill_n(grad, (j1 - j0) * u.D, T(0));
    const auto by_row = [&](int64_t j) {
        add_weight_grad(grad + (j - j0) * u.D, order, order.start[j], order.start[j + 1], u.values, u.dense, u.n_dense,
                        u.D);
    };
    if (!panels) {
        for (int64_t j = j0; j < j1; ++j) by_row(j);
        return;
    }
    // The second and later times round u.dense are positions of their own.
    const Sums<T> sums(order.start.data() + j0, j1 - j0, order.n_rows, 1, [&](int32_t e) {
        return Term<T>{order.row[e], dense_row(order.row[e], u.n_dense), u.values[order.entry[e]]};
    });
    for (int64_t p = 0; p < panel_count<T>(u.D); ++p) sums.add(grad, u.D, p * kPanelCols<T>, panels->panel(p));
    for (const int32_t j : sums.few) by_row(j0 + j);
}

// use(j, grad) gets the gradient (D) of every latent.
template <class T, class Use>
void for_gradients(const RowUpdate<T>& u, const ByLatent& order, int64_t M, int num_threads, Use use) {
    const int64_t D = u.D;
    const bool wide = static_cast<int64_t>(order.row.size()) >= kPanelReuse * std::max(M, u.n_dense);
    std::optional<Panels<T>> panels;
    if (wide) panels.emplace(u.dense, u.n_dense, D, num_threads);
    // Every block of latents reads all panels, so with panels it is as large as the cache lets it be.
    const int64_t at_once = wide ? 24 * kLatentBlock : 1, block = std::max(kLatentBlock, at_once);
    parallel_for((M + block - 1) / block, num_threads, [&](int64_t task) {
        std::vector<T> grads(static_cast<std::size_t>(at_once * D));
        const int64_t end = std::min(M, (task + 1) * block);
        for (int64_t j0 = task * block; j0 < end; j0 += at_once) {
            const int64_t j1 = std::min(end, j0 + at_once);
            dense_part(grads.data(), u, order, j0, j1, panels ? &*panels : nullptr);
            for (int64_t j = j0; j < j1; ++j) {
                T* grad = grads.data() + (j - j0) * D;
                if (u.along)
                    for (int64_t d = 0; d < D; ++d) grad[d] += u.along[j] * u.w[j * D + d];
                if (u.outer)
                    for (int64_t d = 0; d < D; ++d) grad[d] += u.outer[j] * u.common[d];
                if (u.unit_norm) remove_parallel(grad, u.w + j * D, D);
                use(j, grad);
            }
        }
    });
}

}  // namespace

template <class T>
void adam_rows(T* w, T* m, T* v, const T* grad, const Adam& how, bool unit_norm, int64_t M, int64_t D,
               int num_threads) {
    const Constants<T> c(how);
    parallel_for((M + kLatentBlock - 1) / kLatentBlock, num_threads, [&](int64_t block) {
        std::vector<T> g(static_cast<std::size_t>(D));
        for (int64_t j = block * kLatentBlock; j < std::min(M, (block + 1) * kLatentBlock); ++j) {
            const int64_t at = j * D;
            std::copy_n(grad + at, D, g.data());
            if (unit_norm) remove_parallel(g.data(), w + at, D);
            adam_row(w + at, m + at, v + at, g.data(), c, D);
            if (unit_norm) normalise(w + at, D);
        }
    });
}

template <class T>
void update_rows(const RowUpdate<T>* updates, int count, const ByLatent& order, const Adam& how, int64_t M,
                 int num_threads) {
    const Constants<T> c(how);
    for (const RowUpdate<T>* u = updates; u != updates + count; ++u)
        for_gradients(*u, order, M, num_threads, [&](int64_t j, const T* grad) {
            const int64_t at = j * u->D;
            adam_row(u->w + at, u->m + at, u->v + at, grad, c, u->D);
            if (u->unit_norm) normalise(u->w + at, u->D);
        });
}

template <class T>
double grad_squared_norm(const RowUpdate<T>* updates, int count, const ByLatent& order, int64_t M, int num_threads) {
    std::vector<double> row_sum(static_cast<std::size_t>(M), 0.0);
    for (const RowUpdate<T>* u = updates; u != updates + count; ++u)
        for_gradients(*u, order, M, num_threads,
                      [&](int64_t j, const T* grad) { row_sum[j] += static_cast<double>(dot(grad, grad, u->D)); });
    double sum = 0;
    for (const double s : row_sum) sum += s;
    return sum;
}

#define INSTANTIATE(T)                                                                               \
    template void adam_rows(T*, T*, T*, const T*, const Adam&, bool, int64_t, int64_t, int);         \
    template void update_rows(const RowUpdate<T>*, int, const ByLatent&, const Adam&, int64_t, int); \
    template double grad_squared_norm(const RowUpdate<T>*, int, const ByLatent&, int64_t, int);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace sparse_sae
