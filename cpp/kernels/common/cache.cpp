#include "kernels/common/cache.h"

#include <algorithm>
#if defined(__linux__)
#include <unistd.h>
#endif

namespace sparse_sae {

int64_t second_cache() {
    static const int64_t bytes = [] {
        constexpr int64_t kUsual = 1 << 20;
#if defined(_SC_LEVEL2_CACHE_SIZE)
        const int64_t told = sysconf(_SC_LEVEL2_CACHE_SIZE);
        // A larger one is shared by several cores, and some virtual machines tell nothing or nonsense.
        if (told >= kUsual / 4) return std::min<int64_t>(told, 2 * kUsual);
#endif
        return kUsual;
    }();
    return bytes;
}

}  // namespace sparse_sae
