#include "kernels/encode/screen/byte_latents.h"

#include "kernels/common/parallel.h"
#include "kernels/encode/screen/screen_float.h"

namespace sparse_sae {
namespace {

constexpr int C = kByteCols;
constexpr int64_t kPackedBytes = 26 << 20;  // packed latents at a time: 32,768 of 768 inputs

}  // namespace

ByteLatents::ByteLatents(const Rows<float>& rows, const Dictionary<float>& d, const float* threshold, int num_threads)
    : dict(d),
      kept(rows.N < kKeptRows ? d.kept : nullptr),
      frame(kept ? kept->frame : ByteFrame(rows, d)),
      visit(kept ? kept->visit : byte_visits(d.M)),
      known_(buffer<Known>(d.M)) {
    measure(threshold, num_threads);
    slots_ = std::clamp<int64_t>(kPackedBytes / (frame.padded * C), 1, visits());
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
            float length = 0, size = 0, at_center = b;
            if (kept) {
                at_center += kept->at_center(j);
                static_cast<ByteKnown&>(known_[j]) = kept->known(j);
            } else {
                for (int64_t d = 0; d < frame.D; ++d) v[d] = row[d] * frame.scale[d];
                length = norm(v.data(), frame.D);
                size = norm(row, frame.D);
                at_center += dot(frame.center.data(), row, frame.D);
            }
            known_[j].base = at_center - limit;
            const float offsets = std::abs(at_center) + std::abs(b) + std::abs(limit);
            most.finite &= size < 1e18f && length < 1e18f && offsets < 1e18f;  // false for a NaN
            most.u = std::max(most.u, length);
            most.w = std::max(most.w, size);
            most.bias = std::max(most.bias, offsets);
        }
    });
    if (kept) u = kept->u, w = kept->w, finite_ = kept->finite;
    for (const Largest& part : parts) {
        u = std::max(u, 1.01 * static_cast<double>(part.u));
        w = std::max(w, static_cast<double>(part.w));
        bias = std::max(bias, static_cast<double>(part.bias));
        finite_ &= part.finite;
    }
}

int64_t ByteLatents::pack(int64_t position, int num_threads) {
    if (lines_ && position >= from_ && position < to_) return to_;
    if (!lines_) {
        if (!kept) bytes_ = large_buffer<std::uint8_t>(slots_ * frame.padded * C);
        lines_ = buffer<float>(slots_ * line_count() * C);
    }
    from_ = position;
    to_ = std::min(position + slots_, visits());
    parallel_for(to_ - from_, num_threads, [&](int64_t slot) {
        const int64_t panel = visit[from_ + slot];
        if (!kept) {
            ByteKnown found[C];
            pack_byte_panel(bytes_.get() + slot * frame.padded * C, found, dict, frame, panel, u);
            for (int c = 0; c < C && panel * C + c < dict.M; ++c)
                static_cast<ByteKnown&>(known_[panel * C + c]) = found[c];
        }
        write_lines(lines_.get() + slot * line_count() * C, panel);
    });
    return to_;
}

void ByteLatents::write_lines(float* line, int64_t panel) const {
    for (int c = 0; c < C; ++c) {
        const int64_t j = panel * C + c;
        if (j >= dict.M) {  // beyond the last: a threshold that nothing reaches
            for (int64_t i = 0; i < line_count(); ++i) line[i * C + c] = 0;
            line[C + c] = std::numeric_limits<float>::infinity();
            continue;
        }
        const float inverse = 1 / known_[j].step;
        constexpr float kUp = 1.00001f;  // more than the roundings here and in the tile
        line[c] = inverse;
        line[C + c] = -known_[j].base * inverse;
        line[2 * C + c] = -known_[j].length * inverse * kUp;
        line[3 * C + c] = -known_[j].error * inverse * kUp;
        for (int64_t e = 4; e < line_count(); ++e) line[e * C + c] = dict.row(j)[frame.direct[e - 4]] * inverse;
    }
}

}  // namespace sparse_sae
