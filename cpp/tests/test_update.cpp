// Decoding, gradients and updates against loops written out, with exactly sized buffers.
#include <cmath>

#include "check.h"
#include "kernels/decode/decode.h"
#include "kernels/dense/dense.h"
#include "kernels/update/adam.h"
#include "kernels/update/latents.h"

namespace sparse_sae::test {
namespace {

template <class T>
bool close(const std::vector<T>& a, const std::vector<T>& b) {
    const T tolerance = sizeof(T) == 4 ? T(1e-4) : T(1e-11);
    for (std::size_t i = 0; i < a.size(); ++i)
        if (!(std::abs(a[i] - b[i]) <= tolerance * (1 + std::abs(b[i])))) return false;
    return a.size() == b.size();
}

template <class T>
Codes<T> random_codes(int64_t N, int64_t M, double density) {
    std::mt19937 engine(5);
    Codes<T> codes;
    codes.indptr.push_back(0);
    for (int64_t n = 0; n < N; ++n) {
        for (int64_t j = 0; j < M; ++j)
            if (std::uniform_real_distribution<double>()(engine) < density)
                codes.indices.push_back(static_cast<int32_t>(j));
        codes.indptr.push_back(static_cast<int32_t>(codes.indices.size()));
    }
    codes.values = gaussian<T>(static_cast<int64_t>(codes.indices.size()), 6);
    return codes;
}

template <class T>
void products(int64_t N, int64_t D, int64_t M, double density) {
    const Problem<T> p(N, D, M);
    const Codes<T> codes = random_codes<T>(N, M, density);
    const CodesView<T> view{codes.indptr.data(), codes.indices.data(), codes.values.data(), N};
    const std::size_t nnz = codes.values.size();
    std::vector<T> decoded(p.x.size(), 0), projected(nnz, 0), summed(static_cast<std::size_t>(M), 0),
        grads(p.w.size(), 0);
    for (int64_t n = 0; n < N; ++n)
        for (int32_t e = codes.indptr[n]; e < codes.indptr[n + 1]; ++e)
            for (int64_t d = 0; d < D; ++d) {
                const int64_t j = codes.indices[e];
                decoded[n * D + d] += codes.values[e] * p.w[j * D + d];
                projected[e] += p.x[n * D + d] * p.w[j * D + d];
                grads[j * D + d] += codes.values[e] * p.x[n * D + d];
                if (d == 0) summed[j] += codes.values[e];
            }
    for (const int threads : kThreads) {
        std::vector<T> out(decoded.size()), values(nnz), squared(static_cast<std::size_t>(N)), sums(summed.size()),
            wide(p.w.size());
        decode(out.data(), view, p.w.data(), static_cast<const T*>(nullptr), p.M, D, threads);
        CHECK(close(out, decoded));
        code_grad(values.data(), view, p.x.data(), p.w.data(), p.M, D, threads);
        CHECK(close(values, projected));
        decode_residual(out.data(), values.data(), squared.data(), view, p.w.data(), p.x.data(), p.M, D, threads);
        for (std::size_t i = 0; i < out.size(); ++i) CHECK(std::abs(out[i] - (decoded[i] - p.x[i])) < T(1e-3));
        const ByLatent order = by_latent(codes.indptr.data(), codes.indices.data(), N, M, threads);
        weight_grad(wide.data(), order, codes.values.data(), p.x.data(), std::max<int64_t>(1, N), M, D, threads);
        CHECK(close(wide, grads));
        latent_sums(sums.data(), view, M);
        CHECK(close(sums, summed));
    }
}

template <class T>
void updates() {
    constexpr int64_t N = 20, D = 37, M = 70;
    const Problem<T> p(N, D, M);
    const Codes<T> codes = random_codes<T>(2 * N, M, 0.2);  // two blocks stacked over one input
    const ByLatent order = by_latent(codes.indptr.data(), codes.indices.data(), 2 * N, M, 2);
    const Adam how{1e-2, 0.9, 0.99, 1e-8, 3, 0.5};
    const auto zeros = std::vector<T>(p.w.size(), 0);
    for (const bool unit_norm : {false, true}) {
        std::vector<T> w = p.w, m = zeros, v = zeros, grad(p.w.size());
        weight_grad(grad.data(), order, codes.values.data(), p.x.data(), N, M, D, 1);
        adam_rows(w.data(), m.data(), v.data(), grad.data(), how, unit_norm, M, D, 1);
        for (const int threads : kThreads) {
            std::vector<T> w2 = p.w, m2 = zeros, v2 = zeros;
            const RowUpdate<T> update{w2.data(), m2.data(), v2.data(), codes.values.data(), p.x.data(), N,
                                      nullptr,   nullptr,   nullptr,   unit_norm,           D};
            const double norm = grad_squared_norm(&update, 1, order, M, threads);
            CHECK(norm > 0 && norm == grad_squared_norm(&update, 1, order, M, 1));
            update_rows(&update, 1, order, how, M, threads);
            CHECK(w2 == w && m2 == m && v2 == v);
        }
        std::vector<T> w3 = p.w, m3 = zeros, v3 = zeros;
        const RowUpdate<T> full{w3.data(),  m3.data(),  v3.data(),       codes.values.data(), p.x.data(), N,
                                p.b.data(), p.b.data(), p.center.data(), unit_norm,           D};
        update_rows(&full, 1, order, how, M, 2);
        CHECK(w3 != w);
    }
}

void dense_product() {
    const Problem<float> p(700, 33, 2100);
    std::vector<float> out(700 * 2100);
    matmul_nt(out.data(), p.x.data(), p.w.data(), 700, 2100, 33, 2);
    for (const int64_t n : {0, 511, 512, 699})
        for (const int64_t j : {0, 2047, 2048, 2099}) {
            float want = 0;
            for (int64_t d = 0; d < 33; ++d) want += p.x[n * 33 + d] * p.w[j * 33 + d];
            CHECK(std::abs(out[n * 2100 + j] - want) < 1e-4f);
        }
}

}  // namespace

void test_grad() {
    for (const double density : {0.0, 0.1, 1.0})
        for (const int64_t N : {0, 1, 18, 70})
            for (const int64_t D : {1, 8, 67}) {
                products<float>(N, D, 33, density);
                products<double>(N, D, 33, density);
            }
    updates<float>();
    updates<double>();
    dense_product();
}

}  // namespace sparse_sae::test
