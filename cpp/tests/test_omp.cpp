// Matching pursuit: both ways to the same bits, and codes that solve the problem they state.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "check.h"
#include "kernels/omp/omp.h"

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
void sizes() {
    for (const int64_t N : {0, 1, 17, 40})
        for (const int64_t D : {1, 32, 67})
            for (const int64_t M : {1, 17, 90}) {
                Problem<T> p(N, D, M, static_cast<int>(N + D + M));
                unit_rows(p.w, D);
                for (const int64_t k : {int64_t{1}, std::min<int64_t>(9, M)}) check_omp(p.rows(), p.w, k);
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
}

}  // namespace

void test_pursuit() {
    sizes<float>();
    sizes<double>();
    hostile();
    wrong_arguments();
}

}  // namespace sparse_sae::test
