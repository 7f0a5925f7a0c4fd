#include "kernels/common/rows.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/parallel.h"

namespace sparse_sae {
namespace {

float from_bits(std::uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

float bfloat16_to_float(std::uint16_t h) { return from_bits(static_cast<std::uint32_t>(h) << 16); }

// Exact for every half: the exponent is moved by a multiplication, which also normalises subnormals.
float float16_to_float(std::uint16_t h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
    const std::uint32_t rest = static_cast<std::uint32_t>(h & 0x7fffu) << 13;
    if ((h & 0x7c00u) == 0x7c00u) return from_bits(sign | 0x7f800000u | rest);
    return from_bits(sign | rest) * 0x1p112f;
}

template <class T, class S, class Convert>
void convert_row(T* out, const S* x, const T* center, int64_t D, Convert convert) {
    if (center)
        for (int64_t d = 0; d < D; ++d) out[d] = static_cast<T>(convert(x[d])) - center[d];
    else
        for (int64_t d = 0; d < D; ++d) out[d] = static_cast<T>(convert(x[d]));
}

}  // namespace

template <class T>
void Rows<T>::read(T* out, int64_t n) const {
    const int64_t at = n * stride;
    const auto same = [](auto v) { return v; };
    switch (dtype) {
        case Dtype::float16:
            return convert_row(out, static_cast<const std::uint16_t*>(x) + at, center, D, float16_to_float);
        case Dtype::bfloat16:
            return convert_row(out, static_cast<const std::uint16_t*>(x) + at, center, D, bfloat16_to_float);
        case Dtype::float32:
            return convert_row(out, static_cast<const float*>(x) + at, center, D, same);
        case Dtype::float64:
            return convert_row(out, static_cast<const double*>(x) + at, center, D, same);
    }
}

template <class T>
int64_t first_nonfinite_row(const Rows<T>& rows, int num_threads) {
    constexpr int64_t kBlock = 256;
    std::atomic<int64_t> first{std::numeric_limits<int64_t>::max()};
    parallel_for((rows.N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
        std::vector<T> row(static_cast<std::size_t>(rows.D));
        const int64_t end = std::min(rows.N, (block + 1) * kBlock);
        for (int64_t n = block * kBlock; n < end; ++n) {
            rows.read(row.data(), n);
            // x - x is zero for a finite x and NaN for the rest; a sum keeps it without a branch.
            T sum = 0;
            for (int64_t d = 0; d < rows.D; ++d) sum += row[d] - row[d];
            if (sum == 0) continue;
            int64_t seen = first.load();
            while (n < seen && !first.compare_exchange_weak(seen, n)) {
            }
            return;
        }
    });
    return first.load() == std::numeric_limits<int64_t>::max() ? -1 : first.load();
}

template struct Rows<float>;
template struct Rows<double>;
template int64_t first_nonfinite_row(const Rows<float>&, int);
template int64_t first_nonfinite_row(const Rows<double>&, int);

}  // namespace sparse_sae
