// How a block of rows visits the latents where each row has many of them: range by range, so that a range stays in the
// L2 cache until all rows of the block have been there; or latent by latent, while the rows stay.
#pragma once

#include <algorithm>

#include "kernels/common/types.h"

namespace sparse_sae {

inline constexpr int64_t kVisitedLatents = 128;

// Rows of a block. Every block reads all latents from memory, so it is large; but there is one for each thread of
// a large machine.
inline int64_t visiting_rows(int64_t N) { return std::clamp<int64_t>(N / 16, 64, 512); }

// Rows of a block that stay in an L2 cache of 1 MB with what else passes through; at least eight blocks where there
// are rows for them.
inline int64_t cached_rows(int64_t n_rows, int64_t row_bytes) {
    constexpr int64_t kBlockBytes = 800 << 10;
    const int64_t most = std::clamp<int64_t>(kBlockBytes / row_bytes, 64, 1024);
    const int64_t blocks = ((n_rows + most - 1) / most + 7) / 8 * 8;
    return std::max<int64_t>(1, (n_rows + blocks - 1) / blocks);
}

// Asks for the row of w (M, D) a few latents on, into the L2 cache, where wanted(latent).
template <class T, class Wanted>
void prefetch_latent(const T* w, int64_t j, int64_t M, int64_t D, Wanted wanted) {
    constexpr int64_t kAhead = 3, kLine = 64 / sizeof(T);
    if (j + kAhead >= M || !wanted(j + kAhead)) return;
    const T* row = w + (j + kAhead) * D;
    for (int64_t d = 0; d < D; d += kLine) __builtin_prefetch(row + d, 0, 2);
}

}  // namespace sparse_sae
