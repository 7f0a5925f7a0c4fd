// A handful of rows by a kept copy of the latents: it is read once, a quarter of what the weights are.
#pragma once

#include "kernels/encode/screen/byte_product.h"
#include "kernels/encode/topk.h"

namespace sparse_sae {

inline constexpr int64_t kFewKept = 64;  // rows; more are packed in tiles

// How a call of so few rows that screens are not measured on it uses the bytes kept of its dictionary: bytes or tiles,
// or floats where it does not.
template <class T>
Screening kept_screen(const Dictionary<T>& dict, int64_t n_rows, Screening how) {
    if (!dict.kept || n_rows == 0 || n_rows >= kKeptRows) return Screening::floats;
    if (how != Screening::automatic) return how;
    if (has_fast_tiles()) return Screening::tiles;
    return kFastBytes ? Screening::bytes : Screening::floats;
}

// What encode_topk and encode_threshold give, bit for bit. False, and nothing done, where the bound would mean nothing.
bool few_topk_kept(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, TopK select,
                   Screening how, int num_threads);
bool few_above_kept(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, const float* threshold,
                    Screening how, int num_threads);

}  // namespace sparse_sae
