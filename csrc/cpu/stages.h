// Where the time of a thread goes: a stage lasts until the next one is entered.
#pragma once

#include <chrono>
#include <cstdint>

#include "../problem.h"

namespace gloria::GLORIA_ISA {

// Costs one test of a pointer a stage where nobody asks.
class StageClock {
 public:
  explicit StageClock(const int64_t* asked) : runs_(asked != nullptr) {
    if (runs_) since_ = Clock::now();
  }
  void enter(Stage next) {
    if (!runs_) return;
    const Clock::time_point now = Clock::now();
    spent_[static_cast<int>(stage_)] += now - since_;
    stage_ = next;
    since_ = now;
  }
  // Adds this thread's nanoseconds to the `sums` of all.
  void add_to(int64_t* sums) {
    enter(Stage::kWait);
    if (runs_)
      for (int i = 0; i < kStages; ++i) __atomic_fetch_add(sums + i, spent_[i].count(), __ATOMIC_RELAXED);
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool runs_;
  Stage stage_ = Stage::kWait;
  Clock::time_point since_;
  std::chrono::nanoseconds spent_[kStages] = {};
};

}  // namespace gloria::GLORIA_ISA
