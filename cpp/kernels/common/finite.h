// Finding the first row that is not finite, by several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/common/types.h"

namespace sparse_sae {

// A NaN or an infinity has all bits of its exponent set; the largest magnitude, as an integer, shows whether any
// has. Integers, because a sum of floats may not be reordered into vectors.
template <class T>
bool all_finite(const T* x, int64_t D) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    constexpr Bits kMagnitude = ~Bits{0} >> 1;
    const T infinity = std::numeric_limits<T>::infinity();
    Bits limit, largest = 0;
    std::memcpy(&limit, &infinity, sizeof limit);
    for (int64_t d = 0; d < D; ++d) {
        Bits bits;
        std::memcpy(&bits, x + d, sizeof bits);
        largest = std::max(largest, bits & kMagnitude);
    }
    return largest < limit;
}

inline constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// first = min(first, n)
inline void keep_first(std::atomic<int64_t>& first, int64_t n) {
    int64_t seen = first.load();
    while (n < seen && !first.compare_exchange_weak(seen, n)) {
    }
}

}  // namespace sparse_sae
