// The exact choice among the listed latents of a block of rows, with the proof that nothing else could be chosen.
#pragma once

#include "kernels/encode/screen/byte_rows.h"
#include "kernels/encode/screen/settle.h"

namespace sparse_sae {

// Selects for each row of the block. A row whose cut was above its k-th largest canonical value is left with a count of
// -1 in `selected`, and with a cut that is certain: one that k canonical values reach, or 0 where only positive values
// are wanted. Swept again with that one it will be settled, unless its list overflows. A row that is marked as
// overflowed gets the -1 too.
void byte_settle(Selected<float>& selected, ByteRows& block, const Rows<float>& rows, const Dictionary<float>& dict,
                 TopK select, int num_threads);

}  // namespace sparse_sae
