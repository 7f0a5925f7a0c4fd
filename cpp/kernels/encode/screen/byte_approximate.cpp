#include "kernels/encode/screen/byte_approximate.h"

#include <cmath>

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/screen_float.h"

namespace sparse_sae {
namespace {

constexpr int C = kByteCols, L = kLanes<float>;

// integer_sums of any even number of rows up to kTileRows.
struct FewVectors {
    using Sums = void (*)(int32_t*, const std::int8_t*, const std::uint8_t*, int64_t, const int32_t*);
    static constexpr bool kFromStart = true;
    Sums of_quads;

    template <int R = 2>
    static Sums of_rows(int64_t rows) {
        if constexpr (R <= kTileRows)
            return rows == R ? &integer_sums<R> : of_rows<R + 2>(rows);
        else
            return nullptr;
    }
    void sums(int32_t* out, const std::int8_t* x, const std::uint8_t* w, int64_t padded, const int32_t* start) {
        of_quads(out, x, w, padded / 4, start);
    }
};

}  // namespace

FewRows::FewRows(const ByteCopy& kept, const Rows<float>& rows, const Dictionary<float>& dict, Screening how,
                 int num_threads)
    : kept_(kept), D_(dict.D), room_(static_cast<int64_t>(kept.visit.size()) * C) {
    double bias = 0;
    for (int64_t j = 0; j < dict.M; ++j) {
        const double b = std::abs(static_cast<double>(dict.bias(j)));
        bias = std::max(bias, b + std::abs(static_cast<double>(kept.at_center()[j])));
        if (!(b < 1e18)) bias = 1e30;  // a NaN too
    }
    usable_ = kept.finite && kept.u > 1e-18 && kept.u + kept.w + bias + kept.frame.center_norm < 1e18;
    if (!usable_) return;
    // A group fills a tile of vectors, or one or two of those that registers hold.
    const bool tiles = how == Screening::tiles;
    const int64_t most = tiles ? kTileHeight : kTileRows / 2;
    const int64_t N = rows.N, padded = kept.frame.padded, n_direct = static_cast<int64_t>(kept.frame.direct.size());
    groups_ = (N + most - 1) / most;
    together_ = (N + groups_ - 1) / groups_;
    const bool tall = 2 * together_ > kTileHeight;
    packing_ = tiles ? RowPacking{tall ? 2 * kTileHeight : kTileHeight, 64} : RowPacking{2 * together_, 4};
    row_.resize(static_cast<std::size_t>(N));
    x_ = buffer<float>(N * D_);
    about_ = buffer<float>(N * room_);
    direct_ = buffer<float>(N * n_direct);
    bytes_ = buffer<std::int8_t>(groups_ * packing_.rows * padded);
    start_ = buffer<int32_t>(groups_ * packing_.rows);
    std::fill_n(bytes_.get(), groups_ * packing_.rows * padded, std::int8_t{0});
    std::fill_n(start_.get(), groups_ * packing_.rows, 0);
    for (int64_t n = 0; n < N; ++n) read(n, rows, bias);
    const auto by_tiles = [&](auto product) {
        using Product = typename decltype(product)::type;
        approximate(dict, num_threads, [] { return Product{}; });
    };
    if (!tiles)
        approximate(dict, num_threads, [&] { return FewVectors{FewVectors::of_rows(packing_.rows)}; });
    else if (tall)
        with_byte_product<2>(how, by_tiles);
    else
        with_byte_product<1>(how, by_tiles);
}

template <class Make>
void FewRows::approximate(const Dictionary<float>& dict, int num_threads, Make make) {
    constexpr int64_t kTaskBytes = 512 << 10;  // of latents: enough to be worth waking a thread
    const int64_t panels = static_cast<int64_t>(kept_.visit.size()), padded = kept_.frame.padded;
    const int64_t per_task = std::max<int64_t>(1, kTaskBytes / (padded * C));
    parallel_for((panels + per_task - 1) / per_task, num_threads, [&](int64_t task) {
        auto product = make();
        alignas(64) int32_t sums[std::max(kTileRows, 2 * kTileHeight) * C];
        for (int64_t at = task * per_task; at < std::min(panels, (task + 1) * per_task); ++at)
            for (int64_t group = 0; group < groups_; ++group) {
                const int32_t* start = start_.get() + group * packing_.rows;
                product.sums(sums, bytes_.get() + group * packing_.rows * padded, kept_.bytes(at), padded, start);
                if constexpr (!decltype(product)::kFromStart)
                    for (int64_t r = 0; r < 2 * together_; ++r)
                        for (int h = 0; h < C; h += L) store(sums + r * C + h, load(sums + r * C + h) + start[r]);
                write(dict, kept_.visit[at], group, sums);
            }
    });
}

void FewRows::write(const Dictionary<float>& dict, int64_t panel, int64_t group, const int32_t* sums) {
    const int64_t j0 = panel * C, n_direct = static_cast<int64_t>(kept_.frame.direct.size());
    const int64_t first = group * together_, count = std::min(together_, static_cast<int64_t>(row_.size()) - first);
    alignas(64) float base[C];
    for (int64_t c = 0; c < C; ++c) base[c] = kept_.at_center()[j0 + c] + (j0 + c < dict.M ? dict.bias(j0 + c) : 0);
    for (int64_t r = 0; r < count; ++r) {
        const int64_t n = first + r;
        float* out = about_.get() + n * room_ + j0;
        for (int h = 0; h < C; h += L) {
            const auto upper = __builtin_convertvector(load(sums + r * C + h), vec<float>);
            const auto lower = __builtin_convertvector(load(sums + (together_ + r) * C + h), vec<float>);
            vec<float> value = (256 * upper + lower) * (row_[n].unit * load(kept_.step() + j0 + h));
            for (int64_t e = 0; e < n_direct; ++e) value += direct_[n * n_direct + e] * load(kept_.direct(e) + j0 + h);
            store(out + h, value + load(base + h));
        }
    }
}

void FewRows::read(int64_t n, const Rows<float>& rows, double bias) {
    const ByteFrame& frame = kept_.frame;
    const int64_t padded = frame.padded, n_direct = static_cast<int64_t>(frame.direct.size());
    float* x = x_.get() + n * D_;
    rows.read(x, n);
    const double size = static_cast<double>(norm(x, D_));
    for (int64_t e = 0; e < n_direct; ++e)
        direct_[n * n_direct + e] = x[frame.direct[e]] - frame.center[frame.direct[e]];
    const Buffer<float> y = buffer<float>(padded);
    for (int64_t d = 0; d < D_; ++d) y[d] = (x[d] - frame.center[d]) * frame.inverse[d];
    std::fill(y.get() + D_, y.get() + padded, 0.0f);
    rotate(y.get(), padded);
    const Buffer<std::int8_t> upper = buffer<std::int8_t>(padded), lower = buffer<std::int8_t>(padded);
    const QuantisedWide found = quantise_wide(upper.get(), lower.get(), y.get(), padded);
    Row& row = row_[n];
    row.unit = found.step > 0 ? found.step : 1;
    row.length = found.norm + found.error;
    row.error = found.error;
    row.bound = byte_bound(row.length, size, D_, {kept_.u, kept_.w, bias, frame.center_norm});
    row.full = !(row.bound < 1e30f && size < 1e18);
    const int64_t group = n / together_, place = n % together_;
    std::int8_t* out = bytes_.get() + group * packing_.rows * padded;
    packing_.write(out, place, upper.get(), padded);
    packing_.write(out, together_ + place, lower.get(), padded);
    int32_t* start = start_.get() + group * packing_.rows;
    start[place] = -kByteOffset * found.upper_sum;
    start[together_ + place] = -kByteOffset * found.lower_sum;
}

}  // namespace sparse_sae
