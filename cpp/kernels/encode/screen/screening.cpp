#include "kernels/encode/screen/screening.h"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>

#include "kernels/encode/screen/byte_tile.h"

namespace sparse_sae {
namespace {

constexpr double kUntried = std::numeric_limits<double>::infinity();

struct Record {
    double seconds[2] = {kUntried, kUntried};  // a row, by floats and by bytes
    int trials[2] = {0, 0};
    int64_t calls = 0;

    int faster() const { return seconds[1] < seconds[0] ? 1 : 0; }
};

std::mutex records_mutex;
std::map<ScreenKey, Record>& records() {
    static std::map<ScreenKey, Record> all;
    return all;
}

Screening named(int which) { return which ? Screening::bytes : Screening::floats; }

}  // namespace

ScreenTurn::ScreenTurn(ScreenKey key, int64_t n_rows)
    : key_(key), n_rows_(n_rows), screen_(Screening::floats), timed_(false) {
    // Bytes without the instruction are slower everywhere; few rows do not repay packing the latents. A small batch
    // uses what larger ones have found, and is not timed.
    if (!kFastBytes || n_rows < kLeastRows / 2) return;
    const std::lock_guard<std::mutex> lock(records_mutex);
    Record& record = records()[key];
    timed_ = n_rows >= kLeastRows;
    int which = record.faster();
    if (timed_) {
        const int fewer = record.trials[1] <= record.trials[0] ? 1 : 0;
        if (record.trials[fewer] < kTrials)
            which = fewer;
        else if (++record.calls % kAgain == 0)
            which = 1 - which;
    }
    screen_ = named(which);
    start_ = std::chrono::steady_clock::now();
}

void ScreenTurn::done(int64_t fallbacks) const {
    if (!timed_) return;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() / static_cast<double>(n_rows_);
    const int which = screen_ == Screening::bytes ? 1 : 0;
    const std::lock_guard<std::mutex> lock(records_mutex);
    Record& record = records()[key_];
    const bool undecided = static_cast<double>(fallbacks) > kInFull * static_cast<double>(n_rows_);
    if (which == 1 && undecided)
        record.seconds[1] = kUntried;
    else  // the least of the trials, and anew whenever it is tried again
        record.seconds[which] = record.trials[which] < kTrials ? std::min(record.seconds[which], seconds) : seconds;
    ++record.trials[which];
}

std::vector<ScreenReport> screen_reports() {
    const std::lock_guard<std::mutex> lock(records_mutex);
    std::vector<ScreenReport> all;
    for (const auto& entry : records()) {
        const auto& record = entry.second;  // C++17 lets no lambda capture a structured binding
        const auto microseconds = [&](int which) {
            return record.seconds[which] < kUntried ? 1e6 * record.seconds[which] : -1;
        };
        all.push_back({entry.first, microseconds(0), microseconds(1), named(record.faster())});
    }
    return all;
}

}  // namespace sparse_sae
