// Included before every file of a build with SPARSE_SAE_EMULATE_AVX512: the AVX-512 and VNNI code of the kernels runs
// on any CPU, its intrinsics replaced by SIMDe's and its 64-byte vectors cut up by the compiler.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <immintrin.h>
#include <simde/x86/avx512.h>

#include <cstdint>
#include <cstring>

// Only now, so that neither the compiler's headers nor SIMDe believe it.
#define __AVX512F__ 1
#define __AVX512VNNI__ 1
// The one instruction that is written in assembly is its intrinsic then.
#define SPARSE_SAE_EMULATED 1
