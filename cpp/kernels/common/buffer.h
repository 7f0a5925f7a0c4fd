// Scratch memory of kernels: uninitialised, aligned to a cache line so that no vector load spans two.
#pragma once

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

}  // namespace sparse_sae
