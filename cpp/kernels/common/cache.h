// How much a core keeps near itself: sizes of blocks follow it, results never do.
#pragma once

#include "kernels/common/types.h"

namespace sparse_sae {

// Bytes of a core's second-level cache; 1 MB where the system does not tell.
int64_t second_cache();

}  // namespace sparse_sae
