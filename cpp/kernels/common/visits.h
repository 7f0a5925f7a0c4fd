// How a block of rows visits the latents where each row has many of them: range by range, so that a range stays in the
// L2 cache until all rows of the block have been there.
#pragma once

#include <algorithm>

#include "kernels/common/types.h"

namespace sparse_sae {

inline constexpr int64_t kVisitedLatents = 128;

// Rows of a block. Every block reads all latents from memory, so it is large; but there is one for each thread of
// a large machine.
inline int64_t visiting_rows(int64_t N) { return std::clamp<int64_t>(N / 16, 64, 512); }

}  // namespace sparse_sae
