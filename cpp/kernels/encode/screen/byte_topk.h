// Exactly the k largest pre-activations of each row, found by a product of 8-bit integers.
//
// The way of a row through the byte screen, for the k largest as for what exceeds a threshold:
//  1. Frame (byte_frame): the row is centred and scaled, y = (x - c) / s; a latent becomes u = w s. y . u + c . w = x .
//  w.
//  2. Grid (byte_grid): both are rotated and rounded to multiples of one number each, y~ = a q and u~ = b p with q and
//  p
//     in [-127, 127]. |y . u - y~ . u~| <= |y - y~| |u| + |y~| |u - u~| (Cauchy-Schwarz), all four norms measured, not
//     estimated, and roundings added: whatever the data, an answer settled with this bound is certain.
//  3. Packing: the latents once for all rows (byte_latents), the rows of a block in tiles (byte_rows).
//  4. Sweep (byte_sweep, byte_tile): exact integer sums, compared with the threshold of the pair in registers; what may
//     reach the row's cut is appended to the row's list.
//  5. Guesses (byte_topk): panels are visited in an order that strides through the dictionary, so that what has been
//     seen is like a sample; the cut rises to what the k-th largest of all will almost surely reach.
//  6. Settling (byte_settle, score_pairs): canonical values of what is listed, and the proof that nothing that was
//     dropped can be among the k largest. Where the proof fails the row is swept again with a cut that is certain;
//     where its list overflows or it is not finite, all its values are computed. No guess can change an answer.
#pragma once

#include "kernels/encode/screen/byte_sweep.h"
#include "kernels/encode/topk.h"

namespace sparse_sae {

// What encode_topk gives, bit for bit, by bytes. False, and nothing done, where the bound would mean nothing, rows are
// too long for 32-bit sums, or magnitudes are ranked.
bool byte_topk(Codes<float>* codes, const Rows<float>& rows, const Dictionary<float>& dict, TopK select, Screening how,
               int num_threads);

}  // namespace sparse_sae
