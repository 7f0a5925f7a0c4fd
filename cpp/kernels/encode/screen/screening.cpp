#include "kernels/encode/screen/screening.h"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>

#include "kernels/encode/screen/byte_product.h"

namespace sparse_sae {
namespace {

constexpr double kUntried = std::numeric_limits<double>::infinity();

struct Record {
    double seconds[kScreenCount] = {kUntried, kUntried, kUntried};  // a row, by each of kScreens
    int trials[kScreenCount] = {};
    int64_t calls = 0;

    int fastest() const { return static_cast<int>(std::min_element(seconds, seconds + kScreenCount) - seconds); }
};

// Whether a screen may be tried: without the instruction integers are slower everywhere.
bool offered(int which) {
    switch (kScreens[which]) {
        case Screening::bytes:
            return kFastBytes;
        case Screening::tiles:
            return has_fast_tiles();
        default:
            return true;
    }
}

std::mutex records_mutex;
std::map<ScreenKey, Record>& records() {
    static std::map<ScreenKey, Record> all;
    return all;
}

int place_of(Screening how) { return static_cast<int>(std::find(kScreens, kScreens + kScreenCount, how) - kScreens); }

// The screen that has been tried least, if any has not been tried enough: else -1.
int to_be_tried(const Record& record) {
    int least = -1;
    for (int which = kScreenCount - 1; which >= 0; --which)
        if (offered(which) && record.trials[which] < ScreenTurn::kTrials &&
            (least < 0 || record.trials[which] < record.trials[least]))
            least = which;
    return least;
}

// The next of the offered screens in turn that is not the fastest.
int other_than(int fastest, int64_t turn) {
    int others[kScreenCount], count = 0;
    for (int which = 0; which < kScreenCount; ++which)
        if (which != fastest && offered(which)) others[count++] = which;
    return others[turn % count];
}

}  // namespace

ScreenTurn::ScreenTurn(ScreenKey key, int64_t n_rows)
    : key_(key), n_rows_(n_rows), screen_(Screening::floats), timed_(false) {
    // Few rows do not repay packing the latents. A small batch uses what larger ones have found, and is not timed.
    if ((!kFastBytes && !has_fast_tiles()) || n_rows < kLeastRows / 2) return;
    const std::lock_guard<std::mutex> lock(records_mutex);
    Record& record = records()[key];
    timed_ = n_rows >= kLeastRows;
    int which = record.fastest();
    if (timed_) {
        if (const int trial = to_be_tried(record); trial >= 0)
            which = trial;
        else if (++record.calls % kAgain == 0)
            which = other_than(which, record.calls / kAgain);
    }
    screen_ = kScreens[which];
    start_ = std::chrono::steady_clock::now();
}

void ScreenTurn::done(int64_t fallbacks) const {
    if (!timed_) return;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() / static_cast<double>(n_rows_);
    const int which = place_of(screen_);
    const std::lock_guard<std::mutex> lock(records_mutex);
    Record& record = records()[key_];
    const bool undecided = static_cast<double>(fallbacks) > kInFull * static_cast<double>(n_rows_);
    if (by_integers(screen_) && undecided)
        record.seconds[which] = kUntried;
    else  // the least of the trials, and anew whenever it is tried again
        record.seconds[which] = record.trials[which] < kTrials ? std::min(record.seconds[which], seconds) : seconds;
    ++record.trials[which];
}

std::vector<ScreenReport> screen_reports() {
    const std::lock_guard<std::mutex> lock(records_mutex);
    std::vector<ScreenReport> all;
    for (const auto& entry : records()) {
        const Record& record = entry.second;
        ScreenReport report{entry.first, {}, kScreens[record.fastest()]};
        for (int which = 0; which < kScreenCount; ++which)
            report.microseconds[which] = record.seconds[which] < kUntried ? 1e6 * record.seconds[which] : -1;
        all.push_back(report);
    }
    return all;
}

}  // namespace sparse_sae
