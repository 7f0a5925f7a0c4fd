// Encode with exactly the K largest pre-activations of each row.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <utility>

#include "kernels/common/rows.h"
#include "kernels/encode/dictionary.h"
#include "kernels/encode/screen/screening.h"

namespace sparse_sae {

struct TopK {
    int64_t k;
    bool absolute;  // rank by |value| and keep the sign; else rank by value
    bool relu;      // drop what is not positive (zeros are always dropped)
};

template <class T>
void check_topk(const Dictionary<T>& dict, TopK select) {
    if (select.k < 1) throw std::invalid_argument("k: must be at least 1");
    if (dict.M > INT32_MAX) throw std::length_error("w_enc: more than 2**31 - 1 latents");
}

// Pre-activation (n, j) = dot(x[n] - center, w[j]) + b[j], canonical (simd.h). Ties: the lower index first.
// The result is that of sorting every row's pre-activations, for any input: screening only finds candidates,
// a screen bounds how far its approximations may be off, and a row whose candidates overflow is sorted in full
// (counted in `fallbacks`). Memory: O(N K), never O(N M). A NaN pre-activation is never selected.
template <class T>
Codes<T> encode_topk(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads,
                     Screening how = Screening::automatic);

// AuxK (arXiv 2406.04093, section 2.3): two selections. The first is encode_topk's; the second the
// aux_k largest, positive or not, among the latents with dead[j] == 1 (M bytes, each 0 or 1). Both are bit for
// bit what separate encodes give, whatever the screen.
// Memory: O(N (K + aux_k)).
template <class T>
std::pair<Codes<T>, Codes<T>> encode_topk_aux(const Rows<T>& rows, const Dictionary<T>& dict, TopK select,
                                              const char* dead, int64_t aux_k, int num_threads,
                                              Screening how = Screening::automatic);

// The simple version: all pre-activations of a row, then a partial sort. Fastest for a handful of rows.
template <class T>
Codes<T> encode_topk_simple(const Rows<T>& rows, const Dictionary<T>& dict, TopK select, int num_threads);

}  // namespace sparse_sae
