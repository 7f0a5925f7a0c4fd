// The integer product of the byte screen, in two ways: vectors (`Screening::bytes`) and tiles of a matrix
// (`Screening::tiles`). Both give the same sums; they differ in how the rows of a tile are packed.
#pragma once

#include <algorithm>

#include "kernels/common/tile_registers.h"
#include "kernels/encode/screen/byte_copy.h"
#include "kernels/encode/screen/screening.h"

namespace sparse_sae {

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(SPARSE_SAE_VNNI_AS_EVEX) || \
    defined(__ARM_FEATURE_DOTPROD)
inline constexpr bool kFastBytes = true;
#else
inline constexpr bool kFastBytes = false;  // the same integers, no faster than floats
#endif
// Whether multiplying tiles is an instruction here.
inline bool has_fast_tiles() {
#if defined(SPARSE_SAE_TILE_REGISTERS)
    return has_tile_registers();
#else
    return false;
#endif
}

// How the rows of a tile lie in memory: [padded / run][rows][run].
struct RowPacking {
    int64_t rows, run;

    void write(std::int8_t* tile, int64_t row, const std::int8_t* q, int64_t padded) const {
        for (int64_t d = 0; d < padded; d += run) std::memcpy(tile + (d * rows) + row * run, q + d, run);
    }
};

// sums (R, kByteCols) = start of each row + rows . latents, rows being [quads][R][4], latents [quads][kByteCols][4].
// A function of its own, not inlined: in the middle of a larger one GCC keeps sums in memory.
template <int R>
__attribute__((noinline)) void integer_sums(int32_t* sums, const std::int8_t* x, const std::uint8_t* w, int64_t quads,
                                            const int32_t* start) {
    constexpr int L = kLanes<int32_t>, kAhead = 4096;
    vec<int32_t> acc[R][2];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = start[r] - vec<int32_t>{};
    for (int64_t i = 0; i < quads; ++i, x += 4 * R, w += 8 * L) {
        vec<int32_t> w0, w1;
        std::memcpy(&w0, w, sizeof w0);
        std::memcpy(&w1, w + sizeof w0, sizeof w1);
        if constexpr (R <= 4) {  // so little is done with a vector that waiting for memory is what takes the time
            __builtin_prefetch(w + kAhead);
            __builtin_prefetch(w + kAhead + sizeof w0);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            int32_t four;
            std::memcpy(&four, x + 4 * r, 4);
            const vec<int32_t> row = four - vec<int32_t>{};
            add_quads(acc[r][0], w0, row);
            add_quads(acc[r][1], w1, row);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        store(sums + (2 * r) * L, acc[r][0]);
        store(sums + (2 * r + 1) * L, acc[r][1]);
    }
}

struct VectorProduct {
    static constexpr RowPacking kPacking{kTileRows, 4};
    static constexpr bool kFromStart = true;  // sums begin at the start of their row

    void sums(int32_t* out, const std::int8_t* x, const std::uint8_t* w, int64_t padded, const int32_t* start) {
        integer_sums<kTileRows>(out, x, w, padded / 4, start);
    }
};

// Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 latents. H: heights of a tile, 1 or 2.
template <class Tiles, int H = 2>
struct TileProduct {
    static constexpr RowPacking kPacking{H * kTileHeight, 64};
    static constexpr bool kFromStart = false;  // the start of a row is left to add

    Tiles tiles;

    void sums(int32_t* out, const std::int8_t* x, const std::uint8_t* w, int64_t padded, const int32_t*) {
        constexpr int C = kByteCols, W = Tiles::kCols;
        static_assert(C == W || C == 2 * W, "latents of a panel fill one tile or two");
        constexpr bool kTall = H == 2, kWide = C == 2 * W;
        tiles.template zero<0>();
        if constexpr (kWide) tiles.template zero<1>();
        if constexpr (kTall) tiles.template zero<2>();
        if constexpr (kTall && kWide) tiles.template zero<3>();
        for (int64_t d = 0; d < padded; d += 64, x += 64 * kPacking.rows, w += 64 * C) {
            tiles.template load<4>(x, 64);
            tiles.template load<6>(w, 4 * C);
            tiles.template multiply<0, 4, 6>();
            if constexpr (kWide) {
                tiles.template load<7>(w + 4 * W, 4 * C);
                tiles.template multiply<1, 4, 7>();
            }
            if constexpr (kTall) {
                tiles.template load<5>(x + 64 * kTileHeight, 64);
                tiles.template multiply<2, 5, 6>();
                if constexpr (kWide) tiles.template multiply<3, 5, 7>();
            }
        }
        tiles.template store<0>(out, 4 * C);
        if constexpr (kWide) tiles.template store<1>(out + W, 4 * C);
        if constexpr (kTall) tiles.template store<2>(out + kTileHeight * C, 4 * C);
        if constexpr (kTall && kWide) tiles.template store<3>(out + kTileHeight * C + W, 4 * C);
    }
};

template <class T>
struct TypeOf {
    using type = T;
};
// Calls use(TypeOf<Product>) with the product that `how` names. H: see TileProduct.
template <int H = 2, class Use>
void with_byte_product(Screening how, Use use) {
    if (how != Screening::tiles) return use(TypeOf<VectorProduct>{});
#if defined(SPARSE_SAE_TILE_REGISTERS)
    if (has_fast_tiles()) return use(TypeOf<TileProduct<TileRegisters, H>>{});
#endif
    use(TypeOf<TileProduct<PlainTiles<std::min(16, kByteCols)>, H>>{});
}

inline RowPacking row_packing(Screening how) {
    RowPacking packing{};
    with_byte_product(how, [&](auto product) { packing = decltype(product)::type::kPacking; });
    return packing;
}

}  // namespace sparse_sae
