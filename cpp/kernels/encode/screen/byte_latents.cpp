#include "kernels/encode/screen/byte_latents.h"

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/screen_float.h"

namespace sparse_sae {
namespace {

constexpr int C = kByteCols;
constexpr int64_t kPackedBytes = 12 << 20;  // packed latents at a time
// An order of visits in which what has been seen is like a sample of all: every kStride-th panel, then their
// neighbours.
constexpr int64_t kStride = 64;

}  // namespace

ByteLatents::ByteLatents(const Rows<float>& rows, const Dictionary<float>& d, const float* threshold, int num_threads)
    : dict(d), frame(rows, d), known_(buffer<Known>(d.M)) {
    measure(threshold, num_threads);
    const int64_t panels = (dict.M + C - 1) / C, stride = std::clamp<int64_t>(panels / 16, 1, kStride);
    for (int64_t first = 0; first < stride; ++first)
        for (int64_t p = first; p < panels; p += stride) visit.push_back(static_cast<int32_t>(p));
    slots_ = std::clamp<int64_t>(kPackedBytes / (frame.padded * C), 1, panels);
}

void ByteLatents::measure(const float* threshold, int num_threads) {
    constexpr int64_t kBlock = 256;
    struct Largest {
        float u = 0, w = 0, bias = 0;
        bool finite = true;
    };
    std::vector<Largest> parts(static_cast<std::size_t>((dict.M + kBlock - 1) / kBlock));
    parallel_for(static_cast<int64_t>(parts.size()), num_threads, [&](int64_t block) {
        Largest& most = parts[block];
        std::vector<float> v(static_cast<std::size_t>(frame.D));
        for (int64_t j = block * kBlock; j < std::min(dict.M, (block + 1) * kBlock); ++j) {
            const float *row = dict.row(j), limit = threshold ? threshold[dict.at(j)] : 0, b = dict.bias(j);
            for (int64_t d = 0; d < frame.D; ++d) v[d] = row[d] * frame.scale[d];
            const float length = norm(v.data(), frame.D), size = norm(row, frame.D);
            const float at_center = dot(frame.center.data(), row, frame.D) + b;
            known_[j] = {0, at_center - limit, 0, 0};
            const float offsets = std::abs(at_center) + std::abs(b) + std::abs(limit);
            most.finite &= size < 1e18f && length < 1e18f && offsets < 1e18f;  // false for a NaN
            most.u = std::max(most.u, length);
            most.w = std::max(most.w, size);
            most.bias = std::max(most.bias, offsets);
        }
    });
    for (const Largest& part : parts) {
        u = std::max(u, 1.01 * static_cast<double>(part.u));
        w = std::max(w, static_cast<double>(part.w));
        bias = std::max(bias, static_cast<double>(part.bias));
        finite_ &= part.finite;
    }
}

int64_t ByteLatents::pack(int64_t position, int num_threads) {
    if (bytes_ && position >= from_ && position < to_) return to_;
    if (!bytes_) {
        bytes_ = buffer<std::uint8_t>(slots_ * frame.padded * C);
        lines_ = buffer<float>(slots_ * line_count() * C);
    }
    from_ = position;
    to_ = std::min(position + slots_, visits());
    parallel_for(to_ - from_, num_threads, [&](int64_t slot) { pack_panel(slot, visit[from_ + slot]); });
    return to_;
}

void ByteLatents::pack_panel(int64_t slot, int64_t panel) {
    thread_local std::vector<float> v;
    thread_local std::vector<std::int8_t> q;
    v.resize(static_cast<std::size_t>(frame.padded));
    q.resize(static_cast<std::size_t>(frame.padded));
    std::uint8_t* out = bytes_.get() + slot * frame.padded * C;
    float* line = lines_.get() + slot * line_count() * C;
    // A far smaller latent than the largest gets coarser steps than it could, so that a sum in units of steps stays
    // within what floats hold.
    const float least = static_cast<float>(u / (127 * 8192));
    for (int c = 0; c < C; ++c) {
        const int64_t j = panel * C + c;
        if (j >= dict.M) {  // beyond the last: a threshold that nothing reaches
            for (int64_t i = 0; i < line_count(); ++i) line[i * C + c] = 0;
            line[C + c] = std::numeric_limits<float>::infinity();
            for (int64_t i = 0; i < frame.padded / 4; ++i) std::memset(out + (i * C + c) * 4, 128, 4);
            continue;
        }
        const float* row = dict.row(j);
        for (int64_t d = 0; d < frame.D; ++d) v[d] = row[d] * frame.scale[d];
        std::fill(v.begin() + frame.D, v.end(), 0.0f);
        rotate(v.data(), frame.padded);
        const Quantised found = quantise(q.data(), v.data(), frame.padded, least);
        known_[j].step = found.step;
        known_[j].length = found.norm;
        known_[j].error = found.error;
        const float inverse = 1 / found.step;
        constexpr float kUp = 1.00001f;  // more than the roundings here and in the tile
        line[c] = inverse;
        line[C + c] = -known_[j].base * inverse;
        line[2 * C + c] = -found.norm * inverse * kUp;
        line[3 * C + c] = -found.error * inverse * kUp;
        for (int64_t e = 4; e < line_count(); ++e) line[e * C + c] = row[frame.direct[e - 4]] * inverse;
        for (int64_t i = 0; i < frame.padded / 4; ++i) {
            std::uint32_t four;
            std::memcpy(&four, q.data() + 4 * i, 4);
            four ^= 0x80808080u;  // p + 128
            std::memcpy(out + (i * C + c) * 4, &four, 4);
        }
    }
}

}  // namespace sparse_sae
