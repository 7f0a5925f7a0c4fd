// Which screen finds the candidates: results do not depend on it, speed does.
#pragma once

#include <chrono>
#include <string_view>
#include <tuple>
#include <vector>

#include "kernels/common/types.h"

namespace sparse_sae {

// automatic takes whichever has been the fastest on this machine for such calls (ScreenTurn). bytes and tiles need
// float32: both multiply 8-bit integers, by vectors and by tiles of a matrix (byte_product.h).
enum class Screening { automatic, floats, bytes, tiles };
inline constexpr Screening kScreens[] = {Screening::floats, Screening::bytes, Screening::tiles};
inline constexpr int kScreenCount = 3;

inline bool by_integers(Screening how) { return how == Screening::bytes || how == Screening::tiles; }

// Calls that are alike: what decides which screen is the faster.
struct ScreenKey {
    std::string_view kernel;  // a literal
    int64_t D, M, k;          // k: 0 for a threshold, the mean of a row for a whole batch
    int64_t dead_eighths;     // of the latents, where some compete among themselves; 0 elsewhere
    int threads;
    bool operator<(const ScreenKey& other) const {
        return std::tie(kernel, D, M, k, dead_eighths, threads) <
               std::tie(other.kernel, other.D, other.M, other.k, other.dead_eighths, other.threads);
    }
};

// One call's turn: ask `screen`, do the work, then say how it went. Each screen is tried kTrials times on calls of a
// key; then the fastest by seconds a row serves, and every kAgain calls one of the others is tried once more, because
// data and weights change in training. With more than kInFull of the rows computed in full, integers are not taken.
class ScreenTurn {
  public:
    static constexpr int kTrials = 2;
    static constexpr int64_t kAgain = 500, kLeastRows = 512;
    static constexpr double kInFull = 0.02;

    ScreenTurn(ScreenKey key, int64_t n_rows);
    Screening screen() const { return screen_; }
    void done(int64_t fallbacks) const;

  private:
    ScreenKey key_;
    int64_t n_rows_;
    Screening screen_;
    bool timed_;
    std::chrono::steady_clock::time_point start_;
};

// What has been measured, for people: a key, microseconds a row by each of kScreens (negative: not tried), the choice.
struct ScreenReport {
    ScreenKey key;
    double microseconds[kScreenCount];
    Screening choice;
};
std::vector<ScreenReport> screen_reports();

}  // namespace sparse_sae
