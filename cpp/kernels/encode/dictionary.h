// The latents that an encode visits: all M rows of w, or the ones `latents` names.
#pragma once

#include "kernels/common/types.h"

namespace sparse_sae {

class ByteCopy;

template <class T>
struct Dictionary {
    const T* w;                      // (M, D)
    const T* b;                      // (M) or null
    const int32_t* latents;          // (M visited) or null for all
    int64_t M, D;                    // M is the number visited
    const ByteCopy* kept = nullptr;  // of all rows of w, where one is kept (screen/byte_copy.h) and all are visited

    int64_t at(int64_t j) const { return latents ? latents[j] : j; }
    const T* row(int64_t j) const { return w + at(j) * D; }
    T bias(int64_t j) const { return b ? b[at(j)] : T(0); }
};

}  // namespace sparse_sae
