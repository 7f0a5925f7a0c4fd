// Copies that are kept of dictionaries between calls, found by where the weights lie.
#pragma once

#include <memory>

#include "kernels/common/rows.h"
#include "kernels/encode/dictionary.h"

namespace sparse_sae {

// A copy of w (M, D) as bytes, found by kept_copy until it is destroyed. Whoever keeps it says that the weights do not
// change meanwhile. rows: like those that will be encoded, or none.
std::shared_ptr<const ByteCopy> keep_copy(const Rows<float>& rows, const Dictionary<float>& dict, int num_threads);

// The latest copy that is kept of these weights, or null.
std::shared_ptr<const ByteCopy> kept_copy(const float* w, int64_t M, int64_t D);

// What it takes.
int64_t kept_bytes(const ByteCopy& kept);

// Whether this level multiplies bytes faster than floats: without, no copy is used unless a call asks for bytes.
bool has_fast_bytes();

// Whether this processor has tiles of a matrix for bytes, and this level uses them.
bool has_amx();

}  // namespace sparse_sae
