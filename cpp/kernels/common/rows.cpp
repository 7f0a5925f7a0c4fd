#include "kernels/common/rows.h"

#include <atomic>

#include "kernels/common/convert.h"
#include "kernels/common/finite.h"
#include "kernels/common/parallel.h"

namespace sparse_sae {

template <class T>
void Rows<T>::read(T* out, int64_t n) const {
    widen(out, x, dtype, n * stride, D);
    if (center)
        for (int64_t d = 0; d < D; ++d) out[d] -= center[d];
}

template <class T>
int64_t first_nonfinite_row(const Rows<T>& rows, int num_threads) {
    constexpr int64_t kBlock = 256;
    std::atomic<int64_t> first{kNone};
    parallel_for((rows.N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
        std::vector<T> row(static_cast<std::size_t>(rows.D));
        const int64_t end = std::min(rows.N, (block + 1) * kBlock);
        for (int64_t n = block * kBlock; n < end; ++n) {
            rows.read(row.data(), n);
            if (all_finite(row.data(), rows.D)) continue;
            keep_first(first, n);
            return;
        }
    });
    return first.load() == kNone ? -1 : first.load();
}

template struct Rows<float>;
template struct Rows<double>;
template int64_t first_nonfinite_row(const Rows<float>&, int);
template int64_t first_nonfinite_row(const Rows<double>&, int);

}  // namespace sparse_sae
