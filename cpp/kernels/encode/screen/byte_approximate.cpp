#include "kernels/encode/screen/byte_approximate.h"

#include <cmath>

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/byte_tile.h"
#include "kernels/encode/screen/screen_float.h"

namespace sparse_sae {
namespace {

constexpr int C = kByteCols, L = kLanes<float>;
constexpr int64_t kMostTogether = kTileRows / 2;  // rows of a group: two bytes each fill the accumulators of a tile

// integer_sums for any number of rows up to kTileRows.
using SumsOf = void (*)(int32_t*, const std::int8_t*, const std::uint8_t*, int64_t, const int32_t*);
template <int R>
SumsOf sums_of(int64_t rows) {
    if constexpr (R <= kTileRows)
        return rows == R ? &integer_sums<R> : sums_of<R + 2>(rows);
    else
        return nullptr;
}

}  // namespace

FewRows::FewRows(const ByteCopy& kept, const Rows<float>& rows, const Dictionary<float>& dict, int num_threads)
    : kept_(kept), D_(dict.D), room_(static_cast<int64_t>(kept.visit.size()) * C) {
    double bias = 0;
    for (int64_t j = 0; j < dict.M; ++j) {
        const double b = std::abs(static_cast<double>(dict.bias(j)));
        bias = std::max(bias, b + std::abs(static_cast<double>(kept.at_center()[j])));
        if (!(b < 1e18)) bias = 1e30;  // a NaN too
    }
    usable_ = kept.finite && kept.u > 1e-18 && kept.u + kept.w + bias + kept.frame.center_norm < 1e18;
    if (!usable_) return;
    const int64_t N = rows.N, groups = (N + kMostTogether - 1) / kMostTogether, together = (N + groups - 1) / groups;
    const int64_t padded = kept.frame.padded, n_direct = static_cast<int64_t>(kept.frame.direct.size());
    row_.resize(static_cast<std::size_t>(N));
    x_ = buffer<float>(N * D_);
    about_ = buffer<float>(N * room_);
    direct_ = buffer<float>(N * n_direct);
    bytes_ = buffer<std::int8_t>(groups * 2 * together * padded);
    start_ = buffer<int32_t>(groups * 2 * together);
    std::fill_n(bytes_.get(), groups * 2 * together * padded, std::int8_t{0});
    std::fill_n(start_.get(), groups * 2 * together, 0);
    for (int64_t n = 0; n < N; ++n) read(n, rows, bias, n / together, n % together, together);

    const SumsOf sums_for = sums_of<2>(2 * together);
    constexpr int64_t kTaskBytes = 512 << 10;  // of latents: enough to be worth waking a thread
    const int64_t panels = static_cast<int64_t>(kept.visit.size());
    const int64_t per_task = std::max<int64_t>(1, kTaskBytes / (padded * C));
    parallel_for((panels + per_task - 1) / per_task, num_threads, [&](int64_t task) {
        alignas(64) int32_t sums[kTileRows * C];
        for (int64_t at = task * per_task; at < std::min(panels, (task + 1) * per_task); ++at) {
            const int64_t j0 = kept.visit[at] * static_cast<int64_t>(C);
            alignas(64) float base[C];
            for (int64_t c = 0; c < C; ++c)
                base[c] = kept.at_center()[j0 + c] + (j0 + c < dict.M ? dict.bias(j0 + c) : 0);
            for (int64_t group = 0; group < groups; ++group) {
                const std::int8_t* bytes = bytes_.get() + group * 2 * together * padded;
                sums_for(sums, bytes, kept.bytes(at), padded / 4, start_.get() + group * 2 * together);
                for (int64_t r = 0; r < together && group * together + r < N; ++r) {
                    const int64_t n = group * together + r;
                    float* out = about_.get() + n * room_ + j0;
                    for (int h = 0; h < C; h += L) {
                        const auto upper = __builtin_convertvector(load(sums + r * C + h), vec<float>);
                        const auto lower = __builtin_convertvector(load(sums + (together + r) * C + h), vec<float>);
                        vec<float> value = (256 * upper + lower) * (row_[n].unit * load(kept.step() + j0 + h));
                        for (int64_t e = 0; e < n_direct; ++e)
                            value += direct_[n * n_direct + e] * load(kept.direct(e) + j0 + h);
                        store(out + h, value + load(base + h));
                    }
                }
            }
        }
    });
}

void FewRows::read(int64_t n, const Rows<float>& rows, double bias, int64_t group, int64_t place, int64_t together) {
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
    std::int8_t* out = bytes_.get() + group * 2 * together * padded;
    int32_t* start = start_.get() + group * 2 * together;
    start[place] = -128 * found.upper_sum;
    start[together + place] = -128 * found.lower_sum;
    for (int64_t i = 0; i < padded / 4; ++i) {
        std::memcpy(out + (i * 2 * together + place) * 4, upper.get() + 4 * i, 4);
        std::memcpy(out + (i * 2 * together + together + place) * 4, lower.get() + 4 * i, 4);
    }
}

}  // namespace sparse_sae
