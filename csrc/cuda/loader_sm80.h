// What a block of forward_sm80.h multiplies next, and the copies of its operands to shared memory by cp.async.
#pragma once

#include "attention.h"

namespace gloria_cuda {
namespace sm80 {

constexpr int kThreads = 256, kDepth = 32, kStages = 3, kStepsOfPass = kRows / kDepth;
// Of a warp: blocks of 16 regions, and slots of words. Warps in two columns, by kDown rows.
constexpr int kTall = 2, kN = kSlots / 2, kHalf = kWords / 2, kDown = kRows / (16 * kTall);
static_assert(kThreads == 2 * kDown * 32);
constexpr uint32_t kNarrow = kDepth * 2,
                   kWide = kWords * 2;  // bytes of a row of an operand: along K, or along its other axis
constexpr uint32_t kOperand = kRows * kNarrow, kStage = 2 * kOperand;
constexpr uint32_t kAttention = kStages * kStage, kAttentionBytes = kOnChip * kRows * kWide;
constexpr uint32_t kPartials = kAttention + kAttentionBytes;      // two of 128 columns from each row of warps
constexpr uint32_t kLevels = kPartials + 2 * kDown * kWords * 4;  // of 16 regions and two halves, in two turns
constexpr uint32_t kLevelsOfTurn = 16 * 16, kShifts = kLevels + kDown * 2 * kLevelsOfTurn;
// What is subtracted in exponents, for each pass. Where the attention is not on chip, its room is theirs.
constexpr uint32_t kSums = kShifts + kOnChip * kWords * 4;  // sums of a s and of a, kept by one thread a column
constexpr uint32_t kShared = kSums + 2 * kWords * 4;
static_assert(kMostPasses * kWords * 4 <= kAttentionBytes && kShared <= 163 << 10);
static_assert(kWords == kRows && kDepth * kWide == kOperand);

// Places of chunks of 16 bytes such that eight rows of a matrix never meet in a bank.
DEVICE uint32_t narrow(uint32_t base, int row, int chunk) {
  return base + row * kNarrow + ((chunk ^ (row >> 1 & 3)) << 4);
}
DEVICE uint32_t wide(uint32_t base, int row, int chunk) { return base + row * kWide + ((chunk ^ (row & 7)) << 4); }

// What is multiplied next: affinities for the levels of a long text, affinities, or the product with the attention.
enum class Part { kLevels, kAffinity, kContext };

// A position in the work of a block. The loader is kStages - 1 steps ahead of the products, each with a position of its
// own.
template <bool kCosine>
struct Position {
  const ForwardProblem& p;
  int number;  // a chunk of images has not 2^31 of them
  Item item;
  int tile, passes;  // of the item's run; of its image
  Part part;
  int pass;

  DEVICE Position(const ForwardProblem& p) : p(p), number(block()) { begin(); }
  DEVICE int first() const { return p.plan.runs[item.run]; }
  DEVICE int span() const { return p.plan.spans[item.run]; }
  DEVICE bool done() const { return number < 0; }
  DEVICE bool direct() const { return p.norm != Norm::kGram; }
  // Forward takes the lower half of G only.
  DEVICE bool full() const { return direct() || p.kept.affinities; }
  DEVICE bool context() const { return kCosine && part == Part::kContext; }
  DEVICE bool off_chip() const { return p.side > kOnChip * kRows; }
  DEVICE int passes_of_part() const { return context() && direct() ? p.left_dim / kRows : passes; }
  DEVICE int steps() const {
    if (!context()) return p.dim / kDepth;
    return (full() ? passes : pass + 1) * kStepsOfPass;
  }
  // The next pass; whether it belongs to the same part.
  DEVICE bool next_pass() {
    if (++pass < passes_of_part()) return true;
    pass = 0;
    return false;
  }
  DEVICE void next_part() {
    if (part == Part::kLevels) {
      if (++tile == first() + span()) tile = first(), part = Part::kAffinity;
    } else if (part == Part::kAffinity && kCosine) {
      part = Part::kContext;
    } else {
      part = Part::kAffinity;
      if (++tile == first() + span()) number += blocks(), begin();
    }
  }

 private:
  DEVICE void begin() {
    const int runs = p.plan.counts[p.long_only ? 2 : 0];
    const int items = runs * p.images;
    do {
      if (number >= items) {
        number = -1;
        return;
      }
      item = item_of(number, runs, p.images);
    } while (p.norm == Norm::kDirectWhereCancelled && !cancelled(p, item) && (number += blocks()));
    tile = first();
    passes = static_cast<int>((p.region_lengths[item.image] + kRows - 1) / kRows);
    part = span() > 1 ? Part::kLevels : Part::kAffinity, pass = 0;
  }
};

// Copies the operands of one step after the other to shared memory. Addresses are made once a pass and only move from
// there: made for each copy they would take more issue slots than the products.
template <bool kCosine>
struct Loader {
  Position<kCosine> at;
  uint32_t shared;
  int left = 0;
  bool context = false;  // of the pass that is being loaded; `at` may be further
  const uint16_t *rows = nullptr, *columns = nullptr;
  int half = 0;  // elements from the first half of the left operand's rows to the second

  DEVICE Loader(const ForwardProblem& p, uint32_t shared) : at(p), shared(shared) {}

  // Fills `slot`; nothing where all is done, or where attention is wanted that is not yet made.
  DEVICE void next(int slot, bool attention_made) {
    if (!at.done() && (left || !(at.context() && at.off_chip() && at.pass == 0) || attention_made)) {
      if (!left) begin();
      const uint32_t to = shared + slot * kStage;
      const bool wide_rows = kCosine && context && at.direct();
      copy(to, rows, half, wide_rows);
      rows += wide_rows ? 2 * half : kDepth;
      if (!kCosine || !context) copy(to + kOperand, columns, half, false), columns += kDepth;
      if (kCosine && context && at.off_chip())
        copy(to + kOperand, columns, kDepth / 2 * kWords, true), columns += kDepth * kWords;
      if (!--left && !at.next_pass()) at.next_part();
    }
    commit_copies();
  }

 private:
  // Each thread copies two chunks of an operand; the second lies half an operand behind.
  DEVICE void copy(uint32_t to, const uint16_t* from, int half, bool is_wide) {
    if (is_wide) {
      const int row = thread() / 16, chunk = thread() % 16;
      copy_async(wide(to, row, chunk), from), copy_async(wide(to, row + kDepth / 2, chunk), from + half);
    } else {
      const int row = thread() / 4, chunk = thread() % 4;
      copy_async(narrow(to, row, chunk), from), copy_async(narrow(to, row + kRows / 2, chunk), from + half);
    }
  }
  DEVICE void begin() {
    const ForwardProblem& p = at.p;
    const int row = thread() / 4, chunk = thread() % 4 * 8, wide_row = thread() / 16, wide_chunk = thread() % 16 * 8;
    const int64_t image = at.item.image;
    left = at.steps(), context = at.context();
    if (!kCosine || !context) {
      rows = p.regions + (image * p.side + at.pass * kRows + row) * p.dim + chunk;
      columns = p.words + (static_cast<int64_t>(at.tile) * kWords + row) * p.dim + chunk;
      half = kRows / 2 * p.dim;
      return;
    }
    if (at.direct()) {
      rows = p.left + (image * p.side + wide_row) * p.left_dim + at.pass * kRows + wide_chunk;
      half = kDepth / 2 * p.left_dim;
    } else {
      rows = p.left + (image * p.side + at.pass * kRows + row) * p.side + chunk;
      half = kRows / 2 * p.side;
    }
    if (at.off_chip()) columns = p.scratch + (static_cast<int64_t>(block()) * p.side + wide_row) * kWords + wide_chunk;
  }
};

}  // namespace sm80
}  // namespace gloria_cuda
