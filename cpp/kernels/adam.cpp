#include "kernels/adam.h"

#include <algorithm>
#include <cmath>

#include "kernels/parallel.h"
#include "kernels/simd.h"

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

template <class T>
void row_gradient(T* grad, const RowUpdate<T>& u, const ByLatent& order, int64_t j) {
    std::fill_n(grad, u.D, T(0));
    add_weight_grad(grad, order, order.start[j], order.start[j + 1], u.values, u.dense, u.n_dense, u.D);
    if (u.along)
        for (int64_t d = 0; d < u.D; ++d) grad[d] += u.along[j] * u.w[j * u.D + d];
    if (u.outer)
        for (int64_t d = 0; d < u.D; ++d) grad[d] += u.outer[j] * u.common[d];
    if (u.unit_norm) remove_parallel(grad, u.w + j * u.D, u.D);
}

template <class T>
int64_t widest(const RowUpdate<T>* updates, int count) {
    int64_t D = 0;
    for (int i = 0; i < count; ++i) D = std::max(D, updates[i].D);
    return D;
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
    const int64_t D = widest(updates, count);
    parallel_for((M + kLatentBlock - 1) / kLatentBlock, num_threads, [&](int64_t block) {
        std::vector<T> g(static_cast<std::size_t>(D));
        for (int64_t j = block * kLatentBlock; j < std::min(M, (block + 1) * kLatentBlock); ++j)
            for (const RowUpdate<T>* u = updates; u != updates + count; ++u) {
                const int64_t at = j * u->D;
                row_gradient(g.data(), *u, order, j);
                adam_row(u->w + at, u->m + at, u->v + at, g.data(), c, u->D);
                if (u->unit_norm) normalise(u->w + at, u->D);
            }
    });
}

template <class T>
double grad_squared_norm(const RowUpdate<T>* updates, int count, const ByLatent& order, int64_t M, int num_threads) {
    const int64_t D = widest(updates, count);
    std::vector<double> row_sum(static_cast<std::size_t>(M), 0.0);
    parallel_for((M + kLatentBlock - 1) / kLatentBlock, num_threads, [&](int64_t block) {
        std::vector<T> g(static_cast<std::size_t>(D));
        for (int64_t j = block * kLatentBlock; j < std::min(M, (block + 1) * kLatentBlock); ++j)
            for (const RowUpdate<T>* u = updates; u != updates + count; ++u) {
                row_gradient(g.data(), *u, order, j);
                row_sum[j] += static_cast<double>(dot(g.data(), g.data(), u->D));
            }
    });
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
