// Where the time of a thread goes: a stage lasts until the next one is entered.
#pragma once

#include <chrono>
#include <cstdint>

#include "../problem.h"

namespace gloria::GLORIA_ISA {

// Costs one test of a pointer a stage where nobody asks.
class StageClock {
 public:
  explicit StageClock(const double* asked) : runs_(asked != nullptr) {
    if (runs_) since_ = Clock::now();
  }
  void enter(Stage next) {
    if (!runs_) return;
    const Clock::time_point now = Clock::now();
    seconds_[static_cast<int>(stage_)] += std::chrono::duration<double>(now - since_).count();
    stage_ = next;
    since_ = now;
  }
  // Adds this thread's seconds to `sums`; threads come one after another.
  void add_to(double* sums) {
    enter(Stage::kWait);
    if (runs_)
      for (int i = 0; i < kStages; ++i) sums[i] += seconds_[i];
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool runs_;
  Stage stage_ = Stage::kWait;
  Clock::time_point since_;
  double seconds_[kStages] = {};
};

}  // namespace gloria::GLORIA_ISA
