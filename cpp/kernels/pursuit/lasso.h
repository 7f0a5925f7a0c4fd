// Non-negative lasso codes, and codes whose penalty falls with their size.
#pragma once

#include "kernels/common/rows.h"

namespace sparse_sae {

// For each row of x: min over z >= 0 of 1/2 |x - z w|^2 + penalty sum z, by active sets: the residual is multiplied
// with the dictionary, the latents whose products exceed the penalty by most join, coordinate descent solves for those
// that have joined, and again. What is optimal for the few and violated by no other is optimal for all. A row ends when
// its duality gap is at most tolerance |x|^2 / 2 (for the feasible dual point residual * min(1, penalty / product)), or
// when rounding allows no less; gaps (N) holds what was reached, over |x|^2 / 2.
//
// rounds: after that, so many times more with penalty v / (v + z) in place of the penalty of a latent with code z,
// v = penalty / 4 (Candes, Wakin & Boyd 2008). Rows of w (M, D) have norm 1, or 0 for latents that never join; others
// throw. A row whose squared norm is not finite gets no codes, and codes within rounding of zero are dropped.
//
// simple: every residual is multiplied with all of w. Otherwise, where w w^T is small enough to keep and the rows are
// enough to pay for it, products are updated through that matrix, which is D / K times less work. Their rounding errors
// are bounded, and what lies within the bound of a decision is decided by the dot product: the codes are the same to
// the bit.
template <class T>
Codes<T> encode_lasso(std::vector<T>& gaps, const Rows<T>& rows, const T* w, int64_t M, T penalty, int64_t rounds,
                      double tolerance, bool simple, int num_threads);

}  // namespace sparse_sae
