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
constexpr uint32_t kLevels = kPartials + 2 * kDown * kWords * 4;  // of 16 regions and two halves, in turns
constexpr uint32_t kTurns = 2 * kTall, kLevelsOfTurn = 16 * 16, kShifts = kLevels + kDown * kTurns * kLevelsOfTurn;
// What is subtracted in exponents, for each pass. Where the attention is not on chip, its room is theirs.
constexpr uint32_t kSums = kShifts + kOnChip * kWords * 4;  // sums of a s and of a, kept by one thread a column
// What each thread copies in the next pass; of each warp, the positions of the loader and of the products.
constexpr uint32_t kCopies = kSums + 2 * kWords * 4, kPositions = kCopies + kThreads * 24;
constexpr uint32_t kShared = kPositions + kThreads / 32 * 64;
static_assert(kMostPasses * kWords * 4 <= kAttentionBytes && kShared <= 163 << 10);
static_assert(kWords == kRows && kDepth * kWide == kOperand);

// Places of chunks of 16 bytes such that eight rows of a matrix never meet in a bank.
DEVICE uint32_t narrow(uint32_t base, uint32_t row, uint32_t chunk) {
  return base + row * kNarrow + ((chunk ^ (row >> 1 & 3)) << 4);
}
DEVICE uint32_t wide(uint32_t base, uint32_t row, uint32_t chunk) {
  return base + row * kWide + ((chunk ^ (row & 7)) << 4);
}

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
  DEVICE int steps(bool of_context, int of_pass) const {
    return !of_context ? p.dim / kDepth : (full() ? passes : of_pass + 1) * kStepsOfPass;
  }
  // Whether the last pass of a tile is followed by one that is known without a search.
  DEVICE bool goes_on() const {
    if (p.norm == Norm::kDirectWhereCancelled) return false;
    return tile + 1 < first() + span() || number + blocks() < p.plan.counts[p.long_only ? 2 : 0] * p.images;
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

  // In shared memory, of a warp: 32 bytes.
  DEVICE Position(const ForwardProblem& p, uint32_t from) : p(p) { load(from); }
  DEVICE void load(uint32_t from) {
    const auto which = load_shared<Which>(from);
    const auto where = load_shared<Where>(from + sizeof which);
    number = which.number, item = which.item, tile = which.tile;
    passes = where.passes, part = where.part, pass = where.pass;
  }
  DEVICE void store(uint32_t to) const {
    sync_warp();
    if (thread() % 32 == 0) {
      store_shared(to, Which{number, item, tile});
      store_shared(to + sizeof(Which), Where{passes, part, pass, 0});
    }
    sync_warp();
  }

 private:
  struct Which {
    int number;
    Item item;
    int tile;
  };
  struct Where {
    int passes;
    Part part;
    int pass, unused;
  };

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
    // At least one: the host cannot see that an image has no regions.
    const int length = static_cast<int>(p.region_lengths[item.image]);
    passes = length > kRows ? (length + kRows - 1) / kRows : 1;
    part = span() > 1 ? Part::kLevels : Part::kAffinity, pass = 0;
  }
};

// Copies the operands of one step after the other to shared memory. Addresses are made once a pass and only move from
// there: made for each copy they would take more issue slots than the products. They are made ahead and wait in shared
// memory: what begins a pass stands between the parts of other code, many times, where few registers are free.
template <bool kCosine>
struct Loader {
  struct Operands {
    const uint16_t *rows, *columns;
  };
  // Of a pass; `half`: elements from the first half of the left operand's rows to the second.
  struct Steps {
    int left, half;
  };
  // Beside the number of steps that are left: they are with the attention; it must be complete.
  static constexpr int kContext = 1 << 24, kWaits = 1 << 25;

  const ForwardProblem& p;
  const uint32_t shared;
  Operands now = {};
  Steps steps = {};

  DEVICE Loader(const ForwardProblem& p, uint32_t shared) : p(p), shared(shared) {
    store_shared(ready_steps(), Steps{});
    Position<kCosine>(p).store(position());
  }

  // Fills `slot`; nothing where all is done, or where attention is wanted that is not yet made.
  DEVICE void next(int slot, bool attention_made) {
    if (!(steps.left % kContext)) {
      const Steps ready = load_shared<Steps>(ready_steps());
      if (ready.left && (attention_made || !(ready.left & kWaits))) {
        now = load_shared<Operands>(ready_operands()), steps = ready;
        store_shared(ready_steps(), Steps{});
      }
    }
    if (steps.left % kContext) {
      const uint32_t to = shared + slot * kStage;
      const bool context = kCosine && steps.left & kContext, wide_rows = context && p.norm != Norm::kGram;
      copy(to, now.rows, steps.half, wide_rows);
      now.rows += wide_rows ? 2 * steps.half : kDepth;
      if (!context) copy(to + kOperand, now.columns, steps.half, false), now.columns += kDepth;
      if (context && p.side > kOnChip * kRows)
        copy(to + kOperand, now.columns, kDepth / 2 * kWords, true), now.columns += kDepth * kWords;
      --steps.left;
    }
    commit_copies();
  }
  // Makes ready the pass behind the one that is being copied. To be called before more than one is begun.
  DEVICE void prepare() {
    if (load_shared<Steps>(ready_steps()).left) return;
    Position<kCosine> at(p, position());
    if (at.done()) return;
    const int row = thread() / 4, chunk = thread() % 4 * 8, wide_row = thread() / 16, wide_chunk = thread() % 16 * 8;
    const int64_t image = at.item.image;
    Operands from;
    Steps ready{at.steps(at.context(), at.pass), kRows / 2 * p.dim};
    if (!at.context()) {
      from.rows = p.regions + (image * p.side + at.pass * kRows + row) * p.dim + chunk;
      from.columns = p.words + (static_cast<int64_t>(at.tile) * kWords + row) * p.dim + chunk;
    } else {
      ready.left |= kContext | (at.off_chip() && at.pass == 0 ? kWaits : 0);
      from.columns = p.scratch + (static_cast<int64_t>(block()) * p.side + wide_row) * kWords + wide_chunk;
      if (at.direct()) {
        from.rows = p.left + (image * p.side + wide_row) * p.left_dim + at.pass * kRows + wide_chunk;
        ready.half = kDepth / 2 * p.left_dim;
      } else {
        from.rows = p.left + (image * p.side + at.pass * kRows + row) * p.side + chunk;
        ready.half = kRows / 2 * p.side;
      }
    }
    store_shared(ready_operands(), from), store_shared(ready_steps(), ready);
    if (!at.next_pass()) at.next_part();
    at.store(position());
  }

 private:
  DEVICE uint32_t ready_operands() const { return shared + kCopies + thread() * 16; }
  DEVICE uint32_t ready_steps() const { return shared + kCopies + kThreads * 16 + thread() * 8; }
  DEVICE uint32_t position() const { return shared + kPositions + thread() / 32 * 64; }
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
};

}  // namespace sm80
}  // namespace gloria_cuda
