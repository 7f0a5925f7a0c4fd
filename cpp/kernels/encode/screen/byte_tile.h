// One tile of the byte screen: some rows against kByteCols latents. Its integer sums are exact; they are compared with
// the threshold of each pair, and nothing but what reaches it is kept.
#pragma once

#include "kernels/encode/screen/byte_rows.h"

namespace sparse_sae {

// Rows of tile t against the latents of the panel at `position` of the order. kDirect: there are dimensions that are
// multiplied as floats.
template <bool kDirect, class Product>
class ByteTile {
  public:
    static constexpr int R = Product::kPacking.rows, C = kByteCols, L = kLanes<float>;
    static_assert(C == 2 * L && 2 * R <= 64, "a bit of a word for each vector");

    void multiply(Product& product, const ByteRows& rows, int64_t t, int64_t position) {
        t_ = t, position_ = position;
        const ByteLatents& latents = rows.latents;
        product.sums(sums_, rows.bytes(t), latents.bytes(position), latents.frame.padded, rows.start(t));
    }

    // Appends the latents that reach the thresholds of their rows to the rows' lists. make_room(n) is called where the
    // list of row n is full and must leave it with room for another tile. First all are compared and then some are
    // listed, because a branch for each vector, one in four of which has some, would mostly be guessed wrong.
    template <class MakeRoom>
    void list(ByteRows& rows, MakeRoom& make_room) const {
        std::uint32_t reach[2 * R];
        for (std::uint64_t some = compare(reach, rows); some; some &= some - 1) {
            const int i = __builtin_ctzll(some), h = i / R, r = i % R;
            const int64_t n = t_ * R + r;
            ByteRow& at = rows.row[n];
            store_lanes<float>(rows.sums(n) + at.found, sum(rows, r, h), reach[i]);
            store_lanes<int32_t>(rows.listed(n) + at.found, first_latents(rows, h), reach[i]);
            at.found += __builtin_popcount(reach[i]);
            if (__builtin_expect(rows.list_is_full(n), 0)) make_room(n);
        }
    }

  private:
    alignas(64) int32_t sums_[R * C];
    int64_t t_, position_;

    // The approximations of row r and the latents of half h of the panel.
    vec<float> sum(const ByteRows& rows, int64_t r, int h) const {
        vec<int32_t> exact = load(sums_ + r * C + h * L);
        if constexpr (!Product::kFromStart) exact += rows.start(t_)[r];
        vec<float> sum = __builtin_convertvector(exact, vec<float>);
        if constexpr (kDirect) {
            const int64_t n_lines = rows.latents.line_count();
            const float *row = rows.lines(t_) + r * n_lines, *line = rows.latents.lines(position_) + h * L;
            for (int64_t e = 4; e < n_lines; ++e) sum += row[e] * load(line + e * C);
        }
        return sum;
    }

    vec<int32_t> first_latents(const ByteRows& rows, int h) const {
        vec<int32_t> lane;
        for (int i = 0; i < L; ++i) lane[i] = i;
        return lane + (rows.latents.visit[position_] * C + h * L);
    }

    // reach[h R + r]: the lanes of half h that reach the threshold of row r. Gives the bits of those that are not 0.
    std::uint64_t compare(std::uint32_t* reach, const ByteRows& rows) const {
        const int64_t n_lines = rows.latents.line_count();
        const float *lines = rows.latents.lines(position_), *factors = rows.lines(t_);
        std::uint64_t some = 0;
        for (int h = 0; h < 2; ++h, lines += L) {
            const vec<float> one = load(lines), base = load(lines + C), length = load(lines + 2 * C),
                             error = load(lines + 3 * C);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                const float* row = factors + r * n_lines;
                const vec<float> threshold = row[0] * one + row[1] * base + row[2] * length + row[3] * error;
                const std::uint32_t bits = lanes_reach(sum(rows, r, h), threshold);
                reach[h * R + r] = bits;
                some |= static_cast<std::uint64_t>(bits != 0) << (h * R + r);
            }
        }
        return some;
    }
};

// All tiles [t0, t1) of rows against the panels [from, to) of the order. A tile is multiplied before the one before it
// is listed, so that a processor can do both at once.
template <bool kDirect, class Product, class MakeRoom>
__attribute__((noinline)) void byte_tiles(ByteRows& rows, int64_t t0, int64_t t1, int64_t from, int64_t to,
                                          MakeRoom& make_room) {
    Product product;
    ByteTile<kDirect, Product> tile[2];
    int now = 0;
    for (int64_t at = from; at < to; ++at)
        for (int64_t t = t0; t < t1; ++t, now ^= 1) {
            tile[now].multiply(product, rows, t, at);
            if (at > from || t > t0) tile[now ^ 1].list(rows, make_room);
        }
    tile[now ^ 1].list(rows, make_room);
}

}  // namespace sparse_sae
