// A fuzz target (libFuzzer, clang): bytes become sizes, options and values of one kernel call. The fast way must give
// the bits of the simple one, and any number of threads those of one; the sanitizers watch every access.
//   CXX=clang++ cmake -S . -B build/fuzz -DSPARSE_SAE_FUZZ=ON && cmake --build build/fuzz
//   build/fuzz/cpp/tests/fuzz_kernels -max_total_time=60 build/fuzz/corpus cpp/tests/corpus
#include <cstring>

#include "check.h"
#include "kernels/decode/decode.h"
#include "kernels/encode/threshold.h"
#include "kernels/encode/topk.h"
#include "kernels/update/latents.h"

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
    for (const Screening how : {Screening::floats, Screening::bytes})
        CHECK(same_codes(encode_topk(rows, dict, select, threads, how), want));
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
}

}  // namespace
}  // namespace sparse_sae::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    sparse_sae::test::Bytes in(data, size);
    if (in.byte() & 1)
        sparse_sae::test::fuzz<double>(in);
    else
        sparse_sae::test::fuzz<float>(in);
    return 0;
}
