// Products of bytes, four to a 32-bit lane.
#pragma once

#include "kernels/common/lanes.h"

namespace sparse_sae {

// What is added to the bytes of a latent, so that they suit the instruction: those of x86 multiply unsigned with signed
// bytes, those of ARM signed with signed ones.
#if defined(__ARM_FEATURE_DOTPROD)
inline constexpr int kByteOffset = 0;
#else
inline constexpr int kByteOffset = 128;
#endif

// To each 32-bit lane of sum: the products of its four bytes of w, which hold kByteOffset more than they mean, with its
// four signed bytes of x.
inline __attribute__((always_inline)) void add_quads(vec<int32_t>& sum, vec<int32_t> w, vec<int32_t> x) {
#if defined(__AVX512VNNI__) && !defined(SPARSE_SAE_EMULATED)
    // One instruction in assembly: GCC 12 keeps sums on the stack that its own intrinsic accumulates.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
#elif defined(__AVXVNNI__)
    // AVX-VNNI has the encoding of AVX2, which assemblers use only where they are told: without, it is of AVX-512.
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
#elif defined(SPARSE_SAE_VNNI_AS_EVEX)
    asm("vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
#elif defined(__AVX512VNNI__)
    sum = (vec<int32_t>)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(__ARM_FEATURE_DOTPROD)
    sum = (vec<int32_t>)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
#else
    sum += (w & 255) * (x << 24 >> 24) + (w >> 8 & 255) * (x << 16 >> 24) + (w >> 16 & 255) * (x << 8 >> 24) +
           (w >> 24 & 255) * (x >> 24);
#endif
}

}  // namespace sparse_sae
