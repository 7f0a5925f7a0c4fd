// Every way to encode, at sizes around the edges of tiles, on inputs that make screening give up.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "check.h"
#include "kernels/encode/kept.h"
#include "kernels/encode/threshold.h"
#include "kernels/encode/topk.h"

namespace sparse_sae::test {
namespace {

template <class T>
void check_topk(const Rows<T>& rows, const Dictionary<T>& dict, TopK select) {
    const Codes<T> want = encode_topk_simple(rows, dict, select, 1);
    for (const int threads : kThreads)
        for (const Screening how : kScreens) CHECK(same(encode_topk(rows, dict, select, threads, how), want));
    CHECK(static_cast<int64_t>(want.indptr.size()) == rows.N + 1);
    for (int64_t n = 0; n < rows.N; ++n) CHECK(want.indptr[n + 1] - want.indptr[n] <= select.k);
}

template <class T>
void check_aux(const Problem<T>& p, int64_t k, int64_t aux_k) {
    std::vector<char> dead(static_cast<std::size_t>(p.M));
    std::vector<int32_t> listed;
    for (int64_t j = 0; j < p.M; j += 2) {
        dead[j] = 1;
        listed.push_back(static_cast<int32_t>(j));
    }
    const TopK select{k, false, true};
    const Dictionary<T> only{p.w.data(), p.b.data(), listed.data(), static_cast<int64_t>(listed.size()), p.D};
    Codes<T> want = encode_topk(p.rows(), only, TopK{std::min<int64_t>(aux_k, only.M), false, false}, 2);
    for (int32_t& j : want.indices) j = listed[j];
    for (const Screening how : kScreens) {
        for (const int threads : kThreads) {
            const auto both = encode_topk_aux(p.rows(), p.dictionary(), select, dead.data(), aux_k, threads, how);
            CHECK(same(both.first, encode_topk(p.rows(), p.dictionary(), select, 1)));
            CHECK(same(both.second, want));
        }
    }
}

template <class T>
void check_threshold(const Problem<T>& p) {
    const std::vector<T> limit = gaussian<T>(p.M, 9);
    for (const T* threshold : {static_cast<const T*>(nullptr), limit.data()}) {
        const Codes<T> want = encode_threshold(p.rows(), p.dictionary(), threshold, 1);
        // All pre-activations, whose threshold can be applied afterwards.
        const Codes<T> all = encode_topk_simple(p.rows(), p.dictionary(), TopK{p.M, false, false}, 1);
        Codes<T> kept;
        kept.indptr.push_back(0);
        for (int64_t n = 0; n < p.N; ++n) {
            for (int32_t e = all.indptr[n]; e < all.indptr[n + 1]; ++e)
                if (all.values[e] > (threshold ? threshold[all.indices[e]] : 0)) {
                    kept.indices.push_back(all.indices[e]);
                    kept.values.push_back(all.values[e]);
                }
            kept.indptr.push_back(static_cast<int32_t>(kept.indices.size()));
        }
        CHECK(same(want, kept));
        for (const Screening how : kScreens)
            CHECK(same(encode_threshold(p.rows(), p.dictionary(), threshold, 7, how), want));
    }
    for (const int64_t total : {int64_t{1}, p.N, 3 * p.N * p.M}) {
        const Codes<T> want = encode_batch_topk(p.rows(), p.dictionary(), std::max<int64_t>(1, total), 1);
        CHECK(static_cast<int64_t>(want.indices.size()) <= std::max<int64_t>(1, total));
        for (const Screening how : kScreens)
            for (const int threads : kThreads)
                CHECK(
                    same(encode_batch_topk(p.rows(), p.dictionary(), std::max<int64_t>(1, total), threads, how), want));
    }
}

template <class T>
void sizes() {
    for (const int64_t N : {0, 1, 5, 6, 7, 13, 40})
        for (const int64_t D : {1, 7, 32, 67})
            for (const int64_t M : {1, 16, 17, 90, 300}) {
                const Problem<T> p(N, D, M, static_cast<int>(N + D + M));
                for (const int64_t k : {int64_t{1}, int64_t{9}, M})
                    for (const bool absolute : {false, true})
                        for (const bool relu : {false, true})
                            check_topk(p.rows(), p.dictionary(), TopK{k, absolute, relu});
                check_aux(p, 5, 20);
                check_threshold(p);
            }
}

void hostile() {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
    Problem<float> p(20, 50, 500);
    const auto all = [&] {
        for (const bool absolute : {false, true}) check_topk(p.rows(), p.dictionary(), TopK{16, absolute, !absolute});
        check_aux(p, 16, 30);
        check_threshold(p);
    };
    p.x[3] = 1e30f, p.x[77] = -1e6f, p.w[5] = 1e25f;
    all();
    p.x[100] = kNaN, p.x[200] = kInfinity, p.w[600] = kNaN, p.b[7] = kInfinity, p.b[8] = -kInfinity;
    all();
    p = Problem<float>(20, 50, 500);
    for (std::size_t i = 50; i < p.w.size(); ++i) p.w[i] = p.w[i - 50];
    std::fill(p.b.begin(), p.b.end(), 0.0f);
    all();
    CHECK(encode_topk(p.rows(), p.dictionary(), TopK{16, true, false}, 2).fallbacks == p.N);
    for (float& v : p.x) v *= 1e-42f;
    std::fill(p.center.begin(), p.center.end(), 0.0f);
    all();
}

// Dictionaries so large that the byte screen guesses thresholds, in an order that misleads it.
void misled() {
    Problem<float> p(30, 70, 2600);
    for (int64_t j = 2500; j < p.M; ++j)
        for (int64_t d = 0; d < p.D; ++d) p.w[j * p.D + d] *= 3;
    for (const int64_t k : {5, 64}) check_topk(p.rows(), p.dictionary(), TopK{k, false, k == 5});
    check_aux(p, 5, 40);
    for (std::size_t i = 0; i < p.w.size(); ++i) p.w[i] *= static_cast<float>(i) / static_cast<float>(p.w.size());
    check_topk(p.rows(), p.dictionary(), TopK{9, false, true});
    check_threshold(p);
}

// With an int8 copy of the weights that is kept: all numbers of rows up to a tile and beyond, rows that decide nothing.
void kept() {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    for (const int64_t D : {50, 130}) {
        Problem<float> p(70, D, 700);
        const auto all = [&](const Rows<float>& sample) {
            Dictionary<float> dict = p.dictionary();
            const auto copy = keep_copy(sample, dict, 2);
            CHECK(kept_copy(dict.w, dict.M, dict.D) == copy && kept_bytes(*copy) > dict.M * dict.D);
            for (const int64_t N : {1, 2, 5, 6, 7, 12, 13, 70}) {
                Rows<float> rows = p.rows();
                rows.N = N;
                dict.kept = nullptr;
                const std::vector<float> limit(static_cast<std::size_t>(dict.M), 1.0f);
                const Codes<float> above = encode_threshold(rows, dict, limit.data(), 1, Screening::floats);
                const Codes<float> most = encode_topk(rows, dict, TopK{9, false, N == 7}, 1, Screening::floats);
                dict.kept = copy.get();
                for (const int threads : kThreads) {
                    CHECK(same(encode_threshold(rows, dict, limit.data(), threads, Screening::bytes), above));
                    CHECK(same(encode_topk(rows, dict, TopK{9, false, N == 7}, threads, Screening::bytes), most));
                }
            }
        };
        all(p.rows());
        all(Rows<float>{nullptr, Dtype::float32, D, nullptr, 0, D});
        p.x[3] = 1e30f, p.x[static_cast<std::size_t>(D) + 4] = kNaN, p.x[static_cast<std::size_t>(2 * D)] = 1e5f;
        all(p.rows());
        p.b[7] = kNaN;
        all(p.rows());
    }
    const Problem<float> p(1, 40, 300);
    CHECK(kept_copy(p.w.data(), p.M, p.D) == nullptr);
}

void watch_list() {
    const Problem<float> p(9, 40, 300);
    const std::vector<int32_t> latents{299, 0, 7, 7};
    Dictionary<float> only = p.dictionary();
    only.latents = latents.data();
    only.M = 4;
    for (const int64_t N : {1, 9}) {
        Rows<float> rows = p.rows();
        rows.N = N;
        const Codes<float> codes = encode_threshold<float>(rows, only, nullptr, 2);
        for (const int32_t j : codes.indices) CHECK(j >= 0 && j < 4);
    }
}

void wrong_arguments() {
    const Problem<float> p(9, 4, 30);
    bool thrown = false;
    try {
        encode_topk(p.rows(), p.dictionary(), TopK{0, false, true}, 2);
    } catch (const std::invalid_argument&) {
        thrown = true;
    }
    CHECK(thrown);
}

void input_types() {
    const std::vector<std::uint16_t> bits{0x3c00, 0x0001, 0x7c00, 0x8000, 0xc000, 0x7bff};
    std::vector<float> out(6);
    Rows<float>{bits.data(), Dtype::float16, 6, nullptr, 1, 6}.read(out.data(), 0);
    CHECK(out[0] == 1 && out[1] == 0x1p-24f && std::isinf(out[2]) && out[3] == 0 && out[4] == -2 && out[5] == 65504);
    Rows<float>{bits.data(), Dtype::bfloat16, 3, nullptr, 2, 3}.read(out.data(), 1);
    CHECK(out[0] == 0 && out[1] == -2);
    std::vector<double> wide(600, 1e300);
    CHECK(first_nonfinite_row(Rows<double>{wide.data(), Dtype::float64, 2, nullptr, 300, 2}, 7) == -1);
    wide[599] = wide[401] = std::numeric_limits<double>::quiet_NaN();
    CHECK(first_nonfinite_row(Rows<double>{wide.data(), Dtype::float64, 2, nullptr, 300, 2}, 7) == 200);
}

}  // namespace

void test_encode() {
    sizes<float>();
    sizes<double>();
    hostile();
    misled();
    kept();
    watch_list();
    wrong_arguments();
    input_types();
}

}  // namespace sparse_sae::test
