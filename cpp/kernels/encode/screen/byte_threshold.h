// All pre-activations above their thresholds, found by a product of 8-bit integers (byte_topk.h tells the way of a
// row).
#pragma once

#include "kernels/encode/screen/byte_sweep.h"

namespace sparse_sae {

// What encode_threshold gives, bit for bit, by bytes. False, and nothing done, where the bound would mean nothing or
// rows are too long for 32-bit sums.
bool byte_threshold(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, const float* threshold,
                    Screening how, int num_threads);

}  // namespace sparse_sae
