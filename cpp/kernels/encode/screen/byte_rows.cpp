#include "kernels/encode/screen/byte_rows.h"

#include <cmath>

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/candidates.h"

namespace sparse_sae {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

ByteRows::ByteRows(const ByteLatents& of, const Rows<float>& rows, Screening how, std::vector<int32_t> from,
                   const std::vector<float>& cut, int64_t room, int num_threads)
    : latents(of),
      product(how),
      packing(row_packing(how)),
      source(std::move(from)),
      count(static_cast<int64_t>(source.size())),
      tiles((count + packing.rows - 1) / packing.rows),
      capacity(room),
      row(static_cast<std::size_t>(tiles * packing.rows), ByteRow{1, 0, 0, 0, kInfinity, 0, true, false}),
      bytes_(large_buffer<std::int8_t>(tiles * packing.rows * of.frame.padded)),
      start_(buffer<int32_t>(tiles * packing.rows)),
      lines_(buffer<float>(tiles * packing.rows * of.line_count())),
      sums_(large_buffer<float>(count * capacity)),
      listed_(large_buffer<int32_t>(count * capacity)) {
    parallel_for(tiles, num_threads, [&](int64_t t) {
        const int64_t R = packing.rows;
        std::fill_n(bytes_.get() + t * R * of.frame.padded, R * of.frame.padded, std::int8_t{0});
        std::fill_n(start_.get() + t * R, R, 0);
        std::fill_n(lines_.get() + t * R * of.line_count(), R * of.line_count(), 0.0f);
        for (int64_t n = t * R; n < (t + 1) * R; ++n) {
            if (n < count) read(n, rows, cut[n]);
            set_threshold(n);
        }
    });
}

void ByteRows::read(int64_t n, const Rows<float>& rows, float cut) {
    const ByteFrame& frame = latents.frame;
    thread_local std::vector<float> y;
    thread_local std::vector<std::int8_t> q;
    y.resize(static_cast<std::size_t>(frame.padded));
    q.resize(static_cast<std::size_t>(frame.padded));
    rows.read(y.data(), source[n]);
    const double size = static_cast<double>(norm(y.data(), frame.D));
    float* line = lines_.get() + n * latents.line_count();
    for (std::size_t e = 0; e < frame.direct.size(); ++e)
        line[4 + e] = y[frame.direct[e]] - frame.center[frame.direct[e]];
    for (int64_t d = 0; d < frame.D; ++d) y[d] = (y[d] - frame.center[d]) * frame.inverse[d];
    std::fill(y.begin() + frame.D, y.end(), 0.0f);
    rotate(y.data(), frame.padded);
    const Quantised found = quantise(q.data(), y.data(), frame.padded, 0);

    ByteRow& at = row[n];
    at.unit = found.step > 0 ? found.step : 1;
    at.length = found.norm + found.error;
    at.error = found.error;
    at.bound = byte_bound(at.length, size, frame.D, {latents.u, latents.w, latents.bias, frame.center_norm});
    at.full = !(at.bound < 1e30f && size < 1e18);
    at.cut = cut;

    const float inverse = 1 / at.unit;
    line[1] = inverse;
    line[2] = at.error * inverse;
    line[3] = at.length * inverse;
    for (std::size_t e = 0; e < frame.direct.size(); ++e) line[4 + e] *= inverse;
    start_[n] = -kByteOffset * found.sum;
    const int64_t R = packing.rows;
    packing.write(bytes_.get() + n / R * R * frame.padded, n % R, q.data(), frame.padded);
}

void ByteRows::set_threshold(int64_t n) {
    const ByteRow& at = row[n];
    float& threshold = lines_[n * latents.line_count()];
    threshold = at.full ? kInfinity : (at.cut - at.bound) / at.unit;
    if (std::isfinite(threshold)) threshold -= 1e-5f * std::abs(threshold);  // for the roundings of both
}

void ByteRows::give_up(int64_t n) {
    row[n].full = true;
    row[n].found = 0;
    set_threshold(n);
}

void ByteRows::ends(int64_t n, float* about, float* upper) const {
    const ByteRow at = row[n];
    const float* sum = sums(n);
    const int32_t* latent = listed(n);
    for (int32_t e = 0; e < at.found; ++e) {
        const ByteLatents::Known& known = latents.known(latent[e]);
        const float value = at.unit * known.step * sum[e] + known.base;
        about[e] = value;
        upper[e] = value + (at.error * known.length + at.length * known.error + at.bound);
    }
}

void ByteRows::drop_below_cut(int64_t n, const float* upper) {
    constexpr int L = kLanes<float>;
    const vec<float> cut = row[n].cut - vec<float>{};
    float* sum = sums(n);
    int32_t* latent = listed(n);
    int32_t kept = 0;
    for (int32_t e = 0; e < row[n].found; e += L) {
        const std::uint32_t stays = lanes_reach(load(upper + e), cut) & first_lanes(row[n].found - e);
        const vec<float> s = load(sum + e);
        const vec<int32_t> j = load(latent + e);
        store_lanes<float>(sum + kept, s, stays);
        store_lanes<int32_t>(latent + kept, j, stays);
        kept += __builtin_popcount(stays);
    }
    row[n].found = kept;
}

float reached_value(const float* v, int64_t count, int64_t rank, int halvings) {
    constexpr int L = kLanes<float>;
    auto [low, high] = extent(v, count);
    for (; halvings > 0; --halvings) {
        const float middle = low / 2 + high / 2;
        const vec<float> t = middle - vec<float>{};
        int64_t reach = 0, i = 0;
        for (; i + L <= count; i += L) reach += __builtin_popcount(lanes_reach(load(v + i), t));
        for (; i < count; ++i) reach += v[i] >= middle;
        (reach >= rank ? low : high) = middle;
        if (reach == rank) break;
    }
    return low;
}

}  // namespace sparse_sae
