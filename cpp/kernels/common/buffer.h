// Scratch memory of kernels: uninitialised, aligned to a cache line so that no vector load spans two.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <memory>
#include <new>

#include "kernels/common/types.h"

namespace sparse_sae {

struct FreeAligned {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};
template <class T>
using Buffer = std::unique_ptr<T[], FreeAligned>;

template <class T>
Buffer<T> buffer(int64_t count) {
    return Buffer<T>(
        static_cast<T*>(::operator new(static_cast<std::size_t>(count) * sizeof(T), std::align_val_t{64})));
}

// The same for memory that is read from end to end many times: on pages of 2 MB where the system has them, so that the
// translation of addresses is no limit.
template <class T>
Buffer<T> large_buffer(int64_t count) {
    Buffer<T> memory = buffer<T>(count);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t kPage = 4096, kWorth = 4 << 20;
    if (static_cast<std::uintptr_t>(count) * sizeof(T) < kWorth) return memory;
    const auto begin = (reinterpret_cast<std::uintptr_t>(memory.get()) + kPage - 1) / kPage * kPage;
    const auto end = reinterpret_cast<std::uintptr_t>(memory.get() + count) / kPage * kPage;
    // A wish: its failing is no fault.
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
    return memory;
}

}  // namespace sparse_sae
