#include "kernels/common/tile_registers.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sparse_sae {
namespace {

#if defined(__x86_64__) && defined(__linux__)
bool granted() {
    unsigned a, b, c, d;
    constexpr unsigned kAmxTile = 1u << 24, kAmxInt8 = 1u << 25, kXsave = 1u << 27;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kAmxTile) || !(d & kAmxInt8)) return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kXsave)) return false;
    asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    constexpr unsigned kTileState = 3u << 17;  // configuration and data, which the system saves
    if ((a & kTileState) != kTileState) return false;
    // Linux lets a process use the registers only once it has asked: their 8 KB make signal frames larger. It says no
    // where a thread has a signal stack that is too small.
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#else
bool granted() { return false; }
#endif

}  // namespace

bool has_tile_registers() {
    static const bool has = granted();
    return has;
}

}  // namespace sparse_sae
