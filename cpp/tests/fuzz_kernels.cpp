// A fuzz target (libFuzzer, clang): bytes become sizes, options and values of one kernel call. The fast way must give
// the bits of the simple one, and any number of threads those of one; the sanitizers watch every access.
//   nox -s fuzz -- --minutes 5
#include <algorithm>
#include <cstring>

#include "check.h"
#include "kernels/decode/decode.h"
#include "kernels/encode/kept.h"
#include "kernels/encode/threshold.h"
#include "kernels/encode/topk.h"
#include "kernels/gather/gather.h"
#include "kernels/pursuit/iht.h"
#include "kernels/pursuit/lasso.h"
#include "kernels/pursuit/omp.h"
#include "kernels/update/adam.h"

namespace sparse_sae::test {
namespace {

// Reads numbers off the front of the input; zeros once it is used up.
class Bytes {
  public:
    Bytes(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
    std::uint8_t byte() { return left_ ? --left_, *data_++ : 0; }
    int64_t below(int64_t n) { return (byte() | byte() << 8) % n; }
    // Four bytes are any float, NaN and infinity too; one byte is a small integer, so that ties are frequent.
    template <class T>
    std::vector<T> values(int64_t n, bool bits) {
        std::vector<T> out(static_cast<std::size_t>(n));
        for (T& v : out) {
            if (bits) {
                const std::uint8_t b[4] = {byte(), byte(), byte(), byte()};
                float f;
                std::memcpy(&f, b, 4);
                v = static_cast<T>(f);
            } else {
                v = static_cast<T>(static_cast<std::int8_t>(byte())) / 16;
            }
        }
        return out;
    }

  private:
    const std::uint8_t* data_;
    std::size_t left_;
};

// Equal to the bit, NaN included.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
bool same_codes(const Codes<T>& a, const Codes<T>& b) {
    return a.indptr == b.indptr && a.indices == b.indices && same_bits(a.values, b.values);
}

template <class T>
void fuzz(Bytes& in) {
    const int64_t N = in.below(20), D = 1 + in.below(70), M = 1 + in.below(200), k = 1 + in.below(M);
    const std::uint8_t options = in.byte();
    const bool bits = options & 1;
    const std::vector<T> x = in.values<T>(N * D, bits), b = in.values<T>(M, bits), w = in.values<T>(M * D, bits);
    const Rows<T> rows{x.data(), dtype_of<T>(), D, nullptr, N, D};
    const Dictionary<T> dict{w.data(), options & 2 ? b.data() : nullptr, nullptr, M, D};
    const TopK select{k, (options & 4) != 0, (options & 8) != 0};
    const int threads = 1 + (options >> 6);

    const Codes<T> want = encode_topk_simple(rows, dict, select, 1);
    for (const Screening how : kScreens) CHECK(same_codes(encode_topk(rows, dict, select, threads, how), want));
    if constexpr (std::is_same_v<T, float>) {
        Dictionary<float> with_copy = dict;
        const auto copy = keep_copy(rows, dict, threads);
        with_copy.kept = copy.get();
        CHECK(same_codes(encode_topk(rows, with_copy, select, threads, Screening::bytes), want));
        CHECK(same_codes(encode_threshold<float>(rows, with_copy, b.data(), threads, Screening::bytes),
                         encode_threshold<float>(rows, dict, b.data(), 1)));
    }
    if (!select.absolute) {
        std::vector<char> dead(static_cast<std::size_t>(M));
        for (std::size_t j = 0; j < dead.size(); ++j) dead[j] = j == 0 || (options >> 4 & 1) || j % 3 == 0;
        const int64_t aux_k = 1 + (options >> 5 & 1);
        for (const Screening how : kScreens) {
            const auto once = encode_topk_aux(rows, dict, select, dead.data(), aux_k, 1, how);
            const auto both = encode_topk_aux(rows, dict, select, dead.data(), aux_k, threads, how);
            CHECK(same_codes(once.first, want) && same_codes(both.first, want));
            CHECK(same_codes(once.second, both.second));
        }
    }
    const Codes<T> over = encode_threshold<T>(rows, dict, b.data(), 1);
    CHECK(same_codes(encode_threshold<T>(rows, dict, b.data(), threads, Screening::bytes), over));

    const CodesView<T> codes{want.indptr.data(), want.indices.data(), want.values.data(), N};
    std::vector<T> one(static_cast<std::size_t>(N * D)), other(one.size());
    decode<T>(one.data(), codes, w.data(), nullptr, M, D, 1);
    decode<T>(other.data(), codes, w.data(), nullptr, M, D, 3);
    CHECK(same_bits(one, other));
    if (N == 0) return;
    const ByLatent order = by_latent(codes.indptr, codes.indices, N, M, threads);
    std::vector<T> grad(static_cast<std::size_t>(M * D)), again(grad.size());
    weight_grad(grad.data(), order, codes.values, x.data(), N, M, D, 1);
    weight_grad(again.data(), order, codes.values, x.data(), N, M, D, 3);
    CHECK(same_bits(grad, again));
    std::vector<T> w1 = w, m1(w.size()), v1(w.size()), w3 = w, m3(w.size()), v3(w.size());
    const Adam how{1e-3, 0.9, 0.999, 1e-8, 1 + options, 1.0};
    const auto update = [&](std::vector<T>& weights, std::vector<T>& m, std::vector<T>& v, int several) {
        const RowUpdate<T> one{weights.data(), m.data(), v.data(), codes.values,        x.data(), N,
                               nullptr,        nullptr,  nullptr,  (options & 16) != 0, D};
        update_rows(&one, 1, order, how, M, several);
    };
    update(w1, m1, v1, 1);
    update(w3, m3, v3, 3);
    CHECK(same_bits(w1, w3) && same_bits(m1, m3) && same_bits(v1, v3));
    std::vector<int64_t> index(static_cast<std::size_t>(N + 3));
    for (int64_t& i : index) i = in.below(N);
    std::vector<T> gathered(index.size() * static_cast<std::size_t>(D)), threaded(gathered.size());
    const Stored stored{x.data(), dtype_of<T>(), D, nullptr};
    const auto gather_with = [&](std::vector<T>& out, int several) {
        return gather(out.data(), D, stored, index.data(), w.data(), static_cast<const T*>(nullptr), N + 3, D, several);
    };
    CHECK(gather_with(gathered, 1) == gather_with(threaded, 3) && same_bits(gathered, threaded));
}

// Matching pursuit over atoms on the axes, some alike, some zero.
template <class T>
void fuzz_pursuit(Bytes& in) {
    const int64_t N = in.below(20), D = 1 + in.below(40), M = 1 + in.below(60),
                  k = 1 + in.below(std::min<int64_t>(M, 8));
    const bool bits = in.byte() & 1;
    std::vector<T> w(static_cast<std::size_t>(M * D), T(0));
    for (int64_t j = 0; j < M; ++j) {
        const std::uint8_t axis = in.byte();
        if (axis & 3) w[j * D + axis % D] = axis & 4 ? T(1) : T(-1);
    }
    const std::vector<T> x = in.values<T>(N * D, bits);
    const Rows<T> rows{x.data(), dtype_of<T>(), D, nullptr, N, D};
    const Codes<T> want = encode_omp(rows, w.data(), M, k, true, 1);
    CHECK(same_codes(encode_omp(rows, w.data(), M, k, false, 1), want));
    CHECK(same_codes(encode_omp(rows, w.data(), M, k, false, 3), want));
    const T step = T(1) / static_cast<T>(1 + in.below(M));
    CHECK(same_codes(encode_iht(rows, w.data(), M, k, step, 9, false, 3),
                     encode_iht(rows, w.data(), M, k, step, 9, true, 1)));
    const T penalty = std::ldexp(T(1), static_cast<int>(in.below(40)) - 20);
    std::vector<T> gaps, others;
    const Codes<T> sparse = encode_lasso(gaps, rows, w.data(), M, penalty, 1, 1e-5, true, 1);
    CHECK(same_codes(encode_lasso(others, rows, w.data(), M, penalty, 1, 1e-5, false, 3), sparse) &&
          same_bits(gaps, others));
}

}  // namespace
}  // namespace sparse_sae::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    sparse_sae::test::Bytes in(data, size);
    switch (in.byte() & 3) {
        case 0:
            sparse_sae::test::fuzz<float>(in);
            break;
        case 1:
            sparse_sae::test::fuzz<double>(in);
            break;
        case 2:
            sparse_sae::test::fuzz_pursuit<float>(in);
            break;
        default:
            sparse_sae::test::fuzz_pursuit<double>(in);
    }
    return 0;
}
