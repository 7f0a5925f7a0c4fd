// How candidates are found: results do not depend on it, speed does.
#pragma once

namespace sparse_sae {

// automatic takes bytes where this level has the instructions and the rows are long enough; bytes needs float32.
enum class Screening { automatic, floats, bytes };

}  // namespace sparse_sae
