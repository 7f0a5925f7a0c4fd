// Registers that hold tiles of a matrix and multiply them: those of AMX, and the same in plain C++.
//
// A tile has 16 rows of 64 bytes. TileRegisters and PlainTiles have the same members, so that what is built on them is
// one code, run everywhere: load<t>(p, stride) reads a tile; zero<t>() clears it; store<t>(p, stride) writes it; and
// multiply<c, a, b>() adds to each number of tile c (16 rows, kCols columns) the products of 64 signed bytes, a row of
// tile a, with 64 unsigned ones, which tile b holds as [16][kCols][4].
#pragma once

#include "kernels/common/quads.h"
#include "kernels/common/types.h"

namespace sparse_sae {

inline constexpr int kTileHeight = 16;

// Whether this processor has AMX for bytes and the system lets this process use it, which is asked for once.
bool has_tile_registers();

#if defined(__AVX512VNNI__) && defined(__linux__) && !defined(SPARSE_SAE_EMULATED)
#define SPARSE_SAE_TILE_REGISTERS

// While one lives its thread may use the registers. In assembly, because compilers want a flag for the intrinsics, and
// a level of its own would be needed for it; only called after has_tile_registers().
class TileRegisters {
  public:
    static constexpr int kCols = 16;

    TileRegisters() {
        struct {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } shape;
        for (int t = 0; t < 8; ++t) shape.row_bytes[t] = 64, shape.rows[t] = kTileHeight;
        asm volatile("ldtilecfg %0" : : "m"(shape));
    }
    // Without it every switch between threads would save 8 KB of registers.
    ~TileRegisters() { asm volatile("tilerelease"); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;

    template <int t>
    void load(const void* p, int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(t) : "memory");
    }
    template <int t>
    void zero() {
        asm volatile("tilezero %%tmm%c0" : : "i"(t));
    }
    template <int t>
    void store(std::int32_t* p, int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(t) : "memory");
    }
    template <int c, int a, int b>
    void multiply() {
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
    }
};
#endif

template <int Cols>
class PlainTiles {
  public:
    static constexpr int kCols = Cols;

    template <int t>
    void load(const void* p, int64_t stride) {
        constexpr int kBytes = t < 6 ? 64 : 4 * kCols;
        for (int i = 0; i < kTileHeight; ++i)
            std::memcpy(tile_[t][i], static_cast<const std::uint8_t*>(p) + i * stride, kBytes);
    }
    template <int t>
    void zero() {
        std::memset(tile_[t], 0, sizeof tile_[t]);
    }
    template <int t>
    void store(std::int32_t* p, int64_t stride) {
        for (int i = 0; i < kTileHeight; ++i)
            std::memcpy(reinterpret_cast<std::uint8_t*>(p) + i * stride, tile_[t][i], 4 * kCols);
    }
    template <int c, int a, int b>
    void multiply() {
        constexpr int L = kLanes<std::int32_t>;
        for (int i = 0; i < kTileHeight; ++i)
            for (int j = 0; j < kCols; j += L) {
                vec<std::int32_t> sum = load_lanes(tile_[c][i] + 4 * j);
                for (int k = 0; k < kTileHeight; ++k) {
                    std::int32_t four;
                    std::memcpy(&four, tile_[a][i] + 4 * k, sizeof four);
                    add_quads(sum, load_lanes(tile_[b][k] + 4 * j), four - vec<std::int32_t>{});
                }
                std::memcpy(tile_[c][i] + 4 * j, &sum, sizeof sum);
            }
    }

  private:
    alignas(64) std::uint8_t tile_[8][kTileHeight][64];

    static vec<std::int32_t> load_lanes(const std::uint8_t* p) {
        vec<std::int32_t> v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
};

}  // namespace sparse_sae
