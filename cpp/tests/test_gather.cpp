#include "check.h"
#include "kernels/gather/gather.h"

namespace sparse_sae::test {
namespace {

template <class T, class S>
void rows_of(Dtype dtype, int64_t R, int64_t D) {
    const auto drawn = gaussian<float>(R * D, 1);
    const auto scale = gaussian<float>(R, 2);
    const auto center = gaussian<T>(D, 3), factor = gaussian<T>(D, 4);
    std::vector<S> x(drawn.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<S>(drawn[i] * 20);
    x.shrink_to_fit();
    std::vector<int64_t> index;
    for (int64_t i = 0; i < 2 * R; ++i) index.push_back((i * 7) % R);
    const Stored stored{x.data(), dtype, D, scale.data()};
    for (const int threads : kThreads) {
        std::vector<T> out(index.size() * static_cast<std::size_t>(D));
        CHECK(gather(out.data(), D, stored, index.data(), center.data(), factor.data(), 2 * R, D, threads) == -1);
        for (int64_t i = 0; i < 2 * R; ++i)
            for (int64_t d = 0; d < D; ++d) {
                volatile T value = static_cast<T>(x[index[i] * D + d]) * static_cast<T>(scale[index[i]]);
                value = value - center[d];
                value = value * factor[d];
                CHECK(out[i * D + d] == value);
            }
    }
}

void not_finite() {
    std::vector<std::uint16_t> halves(300 * 19, 0x3c00u);
    halves[40 * 19 + 18] = 0x7c00u;
    halves[250 * 19] = 0x7e00u;
    std::vector<int64_t> index;
    for (int64_t i = 299; i >= 0; --i) index.push_back(i);
    std::vector<float> out(300 * 19);
    for (const int threads : kThreads)
        CHECK(gather<float>(out.data(), 19, {halves.data(), Dtype::float16, 19, nullptr}, index.data(), nullptr,
                            nullptr, 300, 19, threads) == 49);
}

}  // namespace

void test_gather() {
    for (const int64_t R : {0, 1, 70})
        for (const int64_t D : {1, 16, 67}) {
            rows_of<float, float>(Dtype::float32, R, D);
            rows_of<float, double>(Dtype::float64, R, D);
            rows_of<float, std::int8_t>(Dtype::int8, R, D);
            rows_of<double, float>(Dtype::float32, R, D);
        }
    not_finite();
}

}  // namespace sparse_sae::test
