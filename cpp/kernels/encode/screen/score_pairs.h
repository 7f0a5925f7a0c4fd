// Canonical values of listed pairs, latent by latent: the weights of a latent are read once for all rows of a block
// that list it.
#pragma once

#include "kernels/common/buffer.h"
#include "kernels/encode/dictionary.h"

namespace sparse_sae {

// The listed pairs of a block of rows.
struct Pairs {
    std::vector<int32_t> from;  // (n_rows + 1): the pairs of row i are [from[i], from[i + 1])
    Buffer<int32_t> latents;    // any order; ascending in each row once scored
    Buffer<float> values;       // canonical, once scored

    // Room for `most` pairs; list them with push().
    Pairs(int64_t n_rows, int64_t most) : latents(buffer<int32_t>(most)) {
        from.reserve(static_cast<std::size_t>(n_rows) + 1);
        from.push_back(0);
    }
    int32_t* next() { return latents.get() + from.back(); }  // where the latents of the next row are written
    void push(int64_t count) { from.push_back(static_cast<int32_t>(from.back() + count)); }
    int64_t n_rows() const { return static_cast<int64_t>(from.size()) - 1; }
};

// Rows of a block of which x (rows, D) fits the second cache with what else passes through; at least eight blocks
// where there are rows for them.
int64_t scored_rows(int64_t n_rows, int64_t D);

// pairs.values of rows x (pairs.n_rows(), D).
void score_pairs(Pairs& pairs, const float* x, const Dictionary<float>& dict);

}  // namespace sparse_sae
