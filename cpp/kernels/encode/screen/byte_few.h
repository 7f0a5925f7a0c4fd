// A handful of rows by a kept copy of the latents: it is read once, a quarter of what the weights are.
#pragma once

#include "kernels/encode/screen/byte_copy.h"
#include "kernels/encode/topk.h"

namespace sparse_sae {

inline constexpr int64_t kFewKept = 64;  // rows; more are packed in tiles

// What encode_topk and encode_threshold give, bit for bit. False, and nothing done, where the bound would mean nothing.
bool few_topk_kept(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, TopK select,
                   int num_threads);
bool few_above_kept(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, const float* threshold,
                    int num_threads);

}  // namespace sparse_sae
