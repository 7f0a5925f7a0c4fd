#include "kernels/gather/gather.h"

#include "kernels/common/convert.h"
#include "kernels/common/finite.h"
#include "kernels/common/parallel.h"

namespace sparse_sae {
namespace {

int64_t bytes_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::int8:
            return 1;
        case Dtype::float16:
        case Dtype::bfloat16:
            return 2;
        case Dtype::float32:
            return 4;
        case Dtype::float64:
            return 8;
    }
    return 0;
}

constexpr int64_t kLine = 64;
constexpr int64_t kAhead = 2;  // rows: which one comes next, only the index knows

void prefetch(const Stored& stored, int64_t row, int64_t item, int64_t D) {
    const char* at = static_cast<const char*>(stored.x) + row * stored.stride * item;
    for (int64_t byte = 0; byte < D * item; byte += kLine) __builtin_prefetch(at + byte);
}

}  // namespace

template <class T>
int64_t gather(T* out, int64_t out_stride, const Stored& stored, const int64_t* index, const T* center, const T* factor,
               int64_t N, int64_t D, int num_threads) {
    constexpr int64_t kBlock = 64;
    const int64_t item = bytes_of(stored.dtype);
    std::atomic<int64_t> first{kNone};
    parallel_for((N + kBlock - 1) / kBlock, num_threads, [&](int64_t block) {
        const int64_t end = std::min(N, (block + 1) * kBlock);
        for (int64_t i = block * kBlock; i < end; ++i) {
            if (i + kAhead < end) prefetch(stored, index[i + kAhead], item, D);
            // The row stays in the L1 cache for what is done to it.
            T* row = out + i * out_stride;
            widen(row, stored.x, stored.dtype, index[i] * stored.stride, D);
            if (stored.scale) {
                const T scale = static_cast<T>(stored.scale[index[i]]);
                for (int64_t d = 0; d < D; ++d) row[d] *= scale;
            }
            if (center)
                for (int64_t d = 0; d < D; ++d) row[d] -= center[d];
            if (factor)
                for (int64_t d = 0; d < D; ++d) row[d] *= factor[d];
            if (!all_finite(row, D)) keep_first(first, i);
        }
    });
    return first.load() == kNone ? -1 : first.load();
}

template int64_t gather(float*, int64_t, const Stored&, const int64_t*, const float*, const float*, int64_t, int64_t,
                        int);
template int64_t gather(double*, int64_t, const Stored&, const int64_t*, const double*, const double*, int64_t, int64_t,
                        int);

}  // namespace sparse_sae
