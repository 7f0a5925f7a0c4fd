// Vectors as 8-bit multiples of one number, with their error.
#pragma once

#include <cstdint>

#include "kernels/common/types.h"

namespace sparse_sae {

// A vector v as multiples of one step.
struct Quantised {
    float step;
    float norm, error;  // at least |v| and |v - step q|
};

// q (D) = round(v / step), in [-127, 127]; all 0 where v is 0, tiny, huge or not finite: then the error is all of it.
Quantised quantise(std::int8_t* q, const float* v, int64_t D);

}  // namespace sparse_sae
