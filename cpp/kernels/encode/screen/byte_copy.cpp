#include "kernels/encode/screen/byte_copy.h"

#include "kernels/common/parallel.h"
#include "kernels/common/quads.h"
#include "kernels/encode/screen/byte_grid.h"
#include "kernels/encode/screen/screen_float.h"

namespace sparse_sae {
namespace {

constexpr int C = kByteCols;

}  // namespace

std::vector<int32_t> byte_visits(int64_t M) {
    constexpr int64_t kStride = 64;  // every kStride-th panel, then their neighbours
    const int64_t panels = (M + C - 1) / C, stride = std::clamp<int64_t>(panels / 16, 1, kStride);
    std::vector<int32_t> visit;
    for (int64_t first = 0; first < stride; ++first)
        for (int64_t p = first; p < panels; p += stride) visit.push_back(static_cast<int32_t>(p));
    return visit;
}

void pack_byte_panel(std::uint8_t* out, ByteKnown* found, const Dictionary<float>& dict, const ByteFrame& frame,
                     int64_t panel, double u) {
    thread_local std::vector<float> v_of_thread;
    thread_local std::vector<std::int8_t> q_of_thread;
    auto& v = v_of_thread;  // asking for a thread's own costs a call each time
    auto& q = q_of_thread;
    v.resize(static_cast<std::size_t>(frame.padded));
    q.resize(static_cast<std::size_t>(frame.padded));
    // A far smaller latent than the largest gets coarser steps than it could, so that a sum in units of steps stays
    // within what floats hold.
    const float least = static_cast<float>(u / (127 * 8192));
    for (int c = 0; c < C; ++c) {
        const int64_t j = panel * C + c;
        if (j >= dict.M) {
            found[c] = {1, 0, 0};
            for (int64_t i = 0; i < frame.padded / 4; ++i) std::memset(out + (i * C + c) * 4, kByteOffset, 4);
            continue;
        }
        const float* row = dict.row(j);
        for (int64_t d = 0; d < frame.D; ++d) v[d] = row[d] * frame.scale[d];
        std::fill(v.begin() + frame.D, v.end(), 0.0f);
        rotate(v.data(), frame.padded);
        const Quantised grid = quantise(q.data(), v.data(), frame.padded, least);
        found[c] = {grid.step, grid.norm, grid.error};
        for (int64_t i = 0; i < frame.padded / 4; ++i) {
            std::uint32_t four;
            std::memcpy(&four, q.data() + 4 * i, 4);
            four ^= kByteOffset * 0x01010101u;  // with 128, p + 128
            std::memcpy(out + (i * C + c) * 4, &four, 4);
        }
    }
}

ByteCopy::ByteCopy(const Rows<float>& rows, const Dictionary<float>& dict, int num_threads)
    : frame(rows, dict), visit(byte_visits(dict.M)), room_(static_cast<int64_t>(visit.size()) * C) {
    const int64_t panels = static_cast<int64_t>(visit.size()), n_direct = static_cast<int64_t>(frame.direct.size());
    bytes_ = large_buffer<std::uint8_t>(panels * frame.padded * C);
    numbers_ = buffer<float>((4 + n_direct) * room_);
    std::fill_n(numbers_.get(), (4 + n_direct) * room_, 0.0f);
    struct Largest {
        float u = 0, w = 0;
        bool finite = true;
    };
    std::vector<Largest> parts(static_cast<std::size_t>(panels));
    parallel_for(panels, num_threads, [&](int64_t panel) {
        Largest& most = parts[panel];
        std::vector<float> v(static_cast<std::size_t>(frame.D));
        for (int64_t j = panel * C; j < std::min(dict.M, (panel + 1) * C); ++j) {
            const float* row = dict.row(j);
            for (int64_t d = 0; d < frame.D; ++d) v[d] = row[d] * frame.scale[d];
            const float length = norm(v.data(), frame.D), size = norm(row, frame.D);
            most = {std::max(most.u, length), std::max(most.w, size), most.finite && size < 1e18f && length < 1e18f};
            numbers_[3 * room_ + j] = dot(frame.center.data(), row, frame.D);
            for (int64_t e = 0; e < n_direct; ++e) numbers_[(4 + e) * room_ + j] = row[frame.direct[e]];
        }
    });
    for (const Largest& part : parts) {
        u = std::max(u, 1.01 * static_cast<double>(part.u));
        w = std::max(w, static_cast<double>(part.w));
        finite &= part.finite;
    }
    parallel_for(panels, num_threads, [&](int64_t position) {
        ByteKnown found[C];
        const int64_t panel = visit[position];
        pack_byte_panel(bytes_.get() + position * frame.padded * C, found, dict, frame, panel, u);
        for (int c = 0; c < C; ++c) {
            numbers_[panel * C + c] = found[c].step;
            numbers_[room_ + panel * C + c] = found[c].length;
            numbers_[2 * room_ + panel * C + c] = found[c].error;
        }
    });
}

}  // namespace sparse_sae
