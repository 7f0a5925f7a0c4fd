// The least a test needs: a check that names its line, and random problems.
#pragma once

#include <cstdlib>
#include <iostream>
#include <random>
#include <vector>

#include "kernels/common/rows.h"
#include "kernels/encode/dictionary.h"

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            std::cerr << __FILE__ << ":" << __LINE__ << ": " << #condition << "\n"; \
            std::exit(1);                                                           \
        }                                                                           \
    } while (false)

namespace sparse_sae::test {

inline constexpr int kThreads[] = {1, 2, 7};

// Exactly sized, so that a read past the end is seen.
template <class T>
std::vector<T> gaussian(int64_t n, int seed) {
    std::mt19937 engine(static_cast<unsigned>(seed));
    std::normal_distribution<double> draw;
    std::vector<T> out(static_cast<std::size_t>(n));
    for (T& v : out) v = static_cast<T>(draw(engine));
    out.shrink_to_fit();
    return out;
}

template <class T>
constexpr Dtype dtype_of() {
    return sizeof(T) == 4 ? Dtype::float32 : Dtype::float64;
}

template <class T>
struct Problem {
    int64_t N, D, M;
    std::vector<T> x, w, b, center;

    Problem(int64_t n, int64_t d, int64_t m, int seed = 0)
        : N(n),
          D(d),
          M(m),
          x(gaussian<T>(n * d, seed)),
          w(gaussian<T>(m * d, seed + 1)),
          b(gaussian<T>(m, seed + 2)),
          center(gaussian<T>(d, seed + 3)) {}
    Rows<T> rows() const { return {x.data(), dtype_of<T>(), D, center.data(), N, D}; }
    Dictionary<T> dictionary() const { return {w.data(), b.data(), nullptr, M, D}; }
};

template <class T>
bool same(const Codes<T>& a, const Codes<T>& b) {
    return a.indptr == b.indptr && a.indices == b.indices && a.values == b.values;
}

void test_encode();
void test_gather();
void test_grad();
void test_pursuit();

}  // namespace sparse_sae::test
