// The largest pre-activations of a whole batch, found by a product of 8-bit integers (byte_topk.h tells the way of a
// row; here all rows share one cut).
#pragma once

#include "kernels/encode/entries.h"
#include "kernels/encode/screen/byte_sweep.h"

namespace sparse_sae {

// found[n] = positive pre-activations of row n, canonical, sorted by latent; among them, over all rows, are the `total`
// largest (all that are positive, where there are fewer). False, and nothing of use in `found`, where the bound would
// mean nothing, rows are too long for 32-bit sums, or more are wanted than lists of a fair size hold.
bool byte_batch_topk(std::vector<std::vector<Entry<float>>>& found, const Rows<float>& rows,
                     const Dictionary<float>& dict, int64_t total, Screening how, int num_threads);

}  // namespace sparse_sae
