// The frame in which rows and latents are made bytes: a centre, scales, and dimensions that are left out.
#pragma once

#include "kernels/common/rows.h"
#include "kernels/encode/dictionary.h"

namespace sparse_sae {

// With y = (x - center) / scale and u = w scale,  x . w = y . u + center . w. Any centre and scales would do; these
// make the bound small (byte_screen.h). Activations of language models have a mean that is not zero, and a few
// dimensions far larger than the rest: the centre is the mean of some rows, and a scale balances the spread of rows
// and latents in its dimension, which moves half of a large one into the weights. Dimensions that are extreme
// nevertheless are multiplied as floats; elsewhere there are none, and that work is skipped.
struct ByteFrame {
    int64_t D, padded;                          // inputs; what a row takes when packed
    std::vector<float> center, scale, inverse;  // (D); scale and inverse are 0 where the product is direct
    std::vector<int64_t> direct;                // the dimensions that are multiplied as floats
    double center_norm;

    // Without rows all inputs are taken to be alike, around zero.
    ByteFrame(const Rows<float>& rows, const Dictionary<float>& dict);
};

}  // namespace sparse_sae
