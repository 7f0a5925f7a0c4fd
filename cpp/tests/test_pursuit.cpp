// Pursuits: both ways to the same bits, and codes that solve the problem they state.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "check.h"
#include "kernels/pursuit/iht.h"
#include "kernels/pursuit/lasso.h"
#include "kernels/pursuit/omp.h"

namespace sparse_sae::test {
namespace {

template <class T>
void unit_rows(std::vector<T>& w, int64_t D) {
    for (std::size_t j = 0; j < w.size(); j += static_cast<std::size_t>(D)) {
        T squared = 0;
        for (int64_t d = 0; d < D; ++d) squared += w[j + d] * w[j + d];
        for (int64_t d = 0; d < D; ++d) w[j + d] /= std::sqrt(squared);
    }
}

template <class T>
void check_omp(const Rows<T>& rows, const std::vector<T>& w, int64_t k) {
    const int64_t M = static_cast<int64_t>(w.size()) / rows.D;
    const Codes<T> want = encode_omp(rows, w.data(), M, k, true, 1);
    for (const int threads : kThreads) {
        CHECK(same(encode_omp(rows, w.data(), M, k, true, threads), want));
        CHECK(same(encode_omp(rows, w.data(), M, k, false, threads), want));
    }
    CHECK(static_cast<int64_t>(want.indptr.size()) == rows.N + 1);
    for (int64_t n = 0; n < rows.N; ++n) {
        CHECK(want.indptr[n + 1] - want.indptr[n] <= k);
        for (int32_t e = want.indptr[n]; e < want.indptr[n + 1]; ++e) {
            CHECK(want.values[e] > 0 && want.indices[e] < M);
            CHECK(e == want.indptr[n] || want.indices[e] > want.indices[e - 1]);
        }
    }
}

template <class T>
void check_lasso(const Rows<T>& rows, const std::vector<T>& w, T penalty, int64_t rounds) {
    const int64_t M = static_cast<int64_t>(w.size()) / rows.D;
    std::vector<T> gaps, others;
    const Codes<T> want = encode_lasso(gaps, rows, w.data(), M, penalty, rounds, 1e-6, true, 1);
    for (const int threads : kThreads)
        for (const bool simple : {true, false}) {
            CHECK(same(encode_lasso(others, rows, w.data(), M, penalty, rounds, 1e-6, simple, threads), want));
            CHECK(others == gaps);
        }
    CHECK(static_cast<int64_t>(gaps.size()) == rows.N && static_cast<int64_t>(want.indptr.size()) == rows.N + 1);
    for (const T gap : gaps) CHECK(gap >= 0 && gap < T(1e-4));
    for (const T value : want.values) CHECK(value > 0);
}

template <class T>
void check_iht(const Rows<T>& rows, const std::vector<T>& w, int64_t k, T step) {
    const int64_t M = static_cast<int64_t>(w.size()) / rows.D;
    const Codes<T> want = encode_iht(rows, w.data(), M, k, step, 20, true, 1);
    for (const int threads : kThreads)
        for (const bool simple : {true, false})
            CHECK(same(encode_iht(rows, w.data(), M, k, step, 20, simple, threads), want));
    for (int64_t n = 0; n < rows.N; ++n) CHECK(want.indptr[n + 1] - want.indptr[n] <= k);
}

template <class T>
void sizes() {
    for (const int64_t N : {0, 1, 17, 40})
        for (const int64_t D : {1, 32, 67})
            for (const int64_t M : {1, 17, 90}) {
                Problem<T> p(N, D, M, static_cast<int>(N + D + M));
                unit_rows(p.w, D);
                for (const int64_t k : {int64_t{1}, std::min<int64_t>(9, M)}) {
                    check_omp(p.rows(), p.w, k);
                    check_iht(p.rows(), p.w, k, static_cast<T>(1) / static_cast<T>(M));
                }
                check_lasso(p.rows(), p.w, T(0.3), 0);
                check_lasso(p.rows(), p.w, T(0.3), 2);
            }
}

void hostile() {
    Problem<float> p(40, 30, 60);
    unit_rows(p.w, 30);
    std::fill_n(p.w.begin() + 90, 30, 0.0f);                   // a dead latent
    std::copy_n(p.w.begin(), 30 * 20, p.w.begin() + 30 * 40);  // ties
    p.x[3] = std::numeric_limits<float>::quiet_NaN();
    p.x[77] = std::numeric_limits<float>::infinity();
    for (int d = 0; d < 30; ++d) p.x[120 + d] = p.center[d];  // nothing to explain
    p.x[170] = 1e30f, p.x[200] = 1e-30f;
    check_omp(p.rows(), p.w, 12);
    check_iht(p.rows(), p.w, 12, 0.05f);
    check_iht(p.rows(), p.w, 12, 1.0f);  // runs away
    check_lasso(p.rows(), p.w, 0.2f, 0);
    check_lasso(p.rows(), p.w, 0.2f, 1);
    const Codes<float> codes = encode_omp(p.rows(), p.w.data(), 60, 12, false, 2);
    for (const int64_t n : {0, 2, 4, 5}) CHECK(codes.indptr[n] == codes.indptr[n + 1]);
    for (const int32_t j : codes.indices) CHECK(j != 3 && j < 40);
}

void wrong_arguments() {
    Problem<float> p(9, 4, 30);
    const auto throws = [&](int64_t k) {
        try {
            encode_omp(p.rows(), p.w.data(), 30, k, false, 2);
        } catch (const std::invalid_argument&) {
            return true;
        }
        return false;
    };
    CHECK(throws(3));  // rows of any norm
    unit_rows(p.w, 4);
    CHECK(throws(0) && throws(31) && !throws(30));
    p.w[5] = std::numeric_limits<float>::quiet_NaN();
    CHECK(throws(3));
    for (const float penalty : {0.0f, -1.0f, std::numeric_limits<float>::infinity()}) {
        bool refused = false;
        std::vector<float> gaps;
        unit_rows(p.w, 4);
        try {
            encode_lasso(gaps, p.rows(), p.w.data(), 30, penalty, 0, 1e-5, false, 1);
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        CHECK(refused);
    }
}

}  // namespace

void test_pursuit() {
    sizes<float>();
    sizes<double>();
    hostile();
    wrong_arguments();
}

}  // namespace sparse_sae::test
