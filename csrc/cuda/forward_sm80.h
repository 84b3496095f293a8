// Similarities of every word with every image on sm_80 and later: regions are rows, words columns, 128 x 128 at a time
// by mma.sync, fed by cp.async. A warp has 16 regions and all words of the tile, so that a text never leaves it. For
// the cosine the attention of the whole image stays in shared memory, or in a scratch of the block, as right operand of
// the product that gives |c|^2.
#pragma once

#include "attention.h"

namespace gloria_cuda {
namespace sm80 {

constexpr int kThreads = 256, kWarps = kThreads / 32, kDepth = 32, kStages = 3, kStepsOfPass = kRows / kDepth;
constexpr uint32_t kNarrow = kDepth * 2,
                   kWide = kWords * 2;  // bytes of a row of an operand: along K, or along its other axis
constexpr uint32_t kOperand = kRows * kNarrow, kStage = 2 * kOperand;
constexpr uint32_t kAttention = kStages * kStage, kAttentionBytes = kOnChip * kRows * kWide;
constexpr uint32_t kPartials = kAttention + kAttentionBytes;  // two of 128 columns from each warp
constexpr uint32_t kShifts = kPartials + 2 * kWarps * kWords * 4;
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

// `kBounded`: logits lie in [0, scale] and scale is small: attention needs no maximum over the regions.
// `kKeep`: for backward, what p.kept says is written.
template <class T, WordNorm kNorm, bool kBounded, bool kCosine, bool kKeep>
struct Forward {
  // Registers for the sums of two regions at once are there only without a maximum.
  static constexpr bool kFoldEach = kNorm == WordNorm::kSoftmax && !kBounded;

  const ForwardProblem& p;
  const uint32_t shared;
  const int lane, warp;
  Loader<kCosine> loader;
  Position<kCosine> at;
  int slot = 0;
  // Over the regions of this warp, relative to the last shift: sums of a s and a, then of |c|^2 and a^2 |v|^2.
  float first[4], second[4];

  DEVICE Forward(const ForwardProblem& p, uint32_t shared)
      : p(p), shared(shared), lane(thread() % 32), warp(thread() / 32), loader(p, shared), at(p) {}

  DEVICE void run() {
    for (int i = 0; i < kStages - 1; ++i) loader.next(i, false);
#pragma unroll 1
    while (!at.done()) {
      Block s = {};
      if (at.context() && at.pass == 0 && at.off_chip()) {
        sync_block();  // the attention is complete: the loader may go on, and is waited for
        for (int i = 0; i < kStages - 1; ++i) step([] {}, true);
      }
      if (at.pass == 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) first[i] = second[i] = 0;
      }
      const Texts texts = texts_of(p.plan, at.tile);
      if (at.context()) {
        multiply_attention(s);
        if (kKeep && !at.direct())
          keep_products<T>(p, again(at.item.image), region(0), again(at.tile), shared + kSums, s);
        at.direct() ? add_context(s) : add_form(s);
      } else {
#pragma unroll 1
        for (int k = 0; k < at.steps(); ++k) step([&] { multiply_words(s); }, false);
        if constexpr (kKeep) keep_affinities<T>(p, again(at.item.image), region(0), again(at.tile), s);
        at.part == Part::kLevels ? add_levels(s, texts) : attend(s, texts);
      }
      if (at.next_pass()) continue;
      if (at.part != Part::kLevels) finish_part();
      at.next_part();
    }
    wait_copies<0>();
  }

 private:
  DEVICE uint32_t attention() const { return shared + kAttention; }
  DEVICE uint32_t partials(int which) const { return shared + kPartials + which * kWarps * kWords * 4; }
  DEVICE uint32_t shifts(int pass) const { return shared + (at.off_chip() ? kAttention : kShifts) + pass * kWords * 4; }
  DEVICE int region(int r) const { return at.pass * kRows + warp * 16 + r * 8 + lane / 4; }
  DEVICE float* level(int r) const { return p.levels + (static_cast<int64_t>(block()) * p.side + region(r)) * 2; }

  template <class Multiply>
  DEVICE void step(Multiply&& multiply, bool attention_made) {
    wait_copies<kStages - 2>();
    sync_block();
    loader.next(slot == 0 ? kStages - 1 : slot - 1, attention_made);
    multiply();
    slot = slot + 1 == kStages ? 0 : slot + 1;
  }

  DEVICE void multiply_words(Block& s) const {
    const uint32_t left = shared + slot * kStage, right = left + kOperand;
#pragma unroll
    for (int k16 = 0; k16 < kDepth / 16; ++k16) {
      uint32_t a[4];
      ldmatrix(a, narrow(left, warp * 16 + lane % 16, k16 * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < kSlots; n += 2) {
        uint32_t b[4];
        ldmatrix(b, narrow(right, n * 8 + lane % 8 + lane / 16 * 8, k16 * 2 + lane / 8 % 2));
        mma<T>(s[n], a, b[0], b[1]), mma<T>(s[n + 1], a, b[2], b[3]);
      }
    }
  }

  // The product of the left operand with the attention, pass after pass of the regions; each was stored relative to its
  // own shift.
  DEVICE void multiply_attention(Block& y) {
    const bool direct = at.direct(), off_chip = at.off_chip(), full = kKeep || direct;
    const int row = at.pass * kRows + warp * 16;
#pragma unroll 1
    for (int k = 0; k < at.steps(); ++k) {
      if (!kBounded && k && k % kStepsOfPass == 0)
        rescale_block(y, shifts(k / kStepsOfPass - 1), shifts(k / kStepsOfPass));
      auto multiply = [&] {
        const uint32_t left = shared + slot * kStage;
        const uint32_t right = off_chip ? left + kOperand : attention() + k * kOperand;
#pragma unroll
        for (int k16 = 0; k16 < kDepth / 16; ++k16) {
          if (!full && k * kDepth + k16 * 16 > row) continue;  // above the diagonal there are zeros
          uint32_t a[4];
          if (direct)
            ldmatrix_transposed(a, wide(left, k16 * 16 + lane / 16 * 8 + lane % 8, warp * 2 + lane / 8 % 2));
          else
            ldmatrix(a, narrow(left, warp * 16 + lane % 16, k16 * 2 + lane / 16));
#pragma unroll
          for (int n = 0; n < kSlots; n += 2) {
            uint32_t b[4];
            ldmatrix_transposed(b, wide(right, k16 * 16 + lane % 16, n + lane / 16));
            mma<Float16>(y[n], a, b[0], b[1]), mma<Float16>(y[n + 1], a, b[2], b[3]);
          }
        }
      };
      step(multiply, true);
    }
  }

  DEVICE void add_levels(const Block& s, const Texts& texts) const {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if constexpr (kNorm == WordNorm::kSoftmax) add_level(s, r, texts, level(r), at.tile == at.first());
  }

  // The largest logit of each column so far becomes the shift of this pass, for all warps.
  DEVICE void raise_shifts(const Block& s, const Texts& texts, int length) {
    float best[4] = {-infinity(), -infinity(), -infinity(), -infinity()};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Columns x;
      float weight[kSlots];
      logits<kNorm>(s, r, texts, p.scale, at.span() > 1 ? level(r) : nullptr, x, weight);
#pragma unroll
      for (int i = 0; i < 2 * kSlots; ++i) x[i] = region(r) < length ? x[i] * weight[i / 2] : -infinity();
      fold(x, larger);
#pragma unroll
      for (int i = 0; i < 4; ++i) best[i] = fmaxf(best[i], x[i]);
    }
    store_folded(best, partials(0) + warp * kWords * 4);
    sync_block();
    if (thread() < kWords) {
      float top = joined_rows<kWarps>(partials(0), thread(), larger);
      if (at.pass) top = fmaxf(top, load_shared<float>(shifts(at.pass - 1) + thread() * 4));
      store_shared(shifts(at.pass) + thread() * 4, top);
    }
    sync_block();
    if (at.pass) rescale_sums<1>(first, second, shifts(at.pass - 1), shifts(at.pass));
  }

  DEVICE void attend(const Block& s, const Texts& texts) {
    const int length = static_cast<int>(p.region_lengths[at.item.image]);
    if constexpr (!kBounded) raise_shifts(s, texts, length);
    Columns products, sums;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (kKeep && r && never(p)) return;
      Columns x;
      float weight[kSlots];
      logits<kNorm>(s, r, texts, p.scale, at.span() > 1 ? level(r) : nullptr, x, weight);
      const float none = region(r) < length ? 0.f : infinity();
      uint32_t pairs[kSlots];
#pragma unroll
      for (int n = 0; n < kSlots; ++n) {
        float a[2], shift[2] = {p.scale + none, p.scale + none};
        if constexpr (!kBounded) {
          const float2 pair = load_shared<float2>(shifts(at.pass) + (n * kSlot + lane % 4 * 2) * 4);
          shift[0] = pair.x + none, shift[1] = pair.y + none;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float above = relative < kKeep && !kBounded > (x[2 * n + i], weight[n], shift[i]);
          a[i] = exp2_fast(above);
        }
        if constexpr (kCosine) {
          pairs[n] = pack<Float16>(a[0], a[1]);
          a[0] = low<Float16>(pairs[n]), a[1] = high<Float16>(pairs[n]);  // numerator and norm see the same attention
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float product = a[i] * s[n][2 * r + i];
          products[2 * n + i] = r && !kFoldEach ? products[2 * n + i] + product : product;
          sums[2 * n + i] = r && !kFoldEach ? sums[2 * n + i] + a[i] : a[i];
        }
      }
      if constexpr (kCosine) store_attention(r, pairs);
      if (r || kFoldEach) add_folded(first, products), add_folded(second, sums);
    }
  }
  DEVICE uint32_t* scratch(int r) const {
    return reinterpret_cast<uint32_t*>(p.scratch) +
           (static_cast<int64_t>(block()) * p.side + region(r)) * (kWords / 2) + lane % 4;
  }
  DEVICE void store_attention(int r, const uint32_t (&pairs)[kSlots]) const {
    if (at.off_chip()) {
      uint32_t* to = scratch(r);
#pragma unroll
      for (int n = 0; n < kSlots; ++n) to[n * kSlot / 2] = pairs[n];
    } else {
#pragma unroll
      for (int n = 0; n < kSlots; ++n) store_shared(wide(attention(), region(r), n) + lane % 4 * 4, pairs[n]);
    }
  }
  DEVICE void load_attention(int r, uint32_t (&pairs)[kSlots]) const {
    if (at.off_chip()) {
      const uint32_t* from = scratch(r);
#pragma unroll
      for (int n = 0; n < kSlots; ++n) pairs[n] = from[n * kSlot / 2];
    } else {
#pragma unroll
      for (int n = 0; n < kSlots; n += 4)
        ldmatrix(reinterpret_cast<uint32_t (&)[4]>(pairs[n]),
                 wide(attention(), region(r) - lane / 4 + lane % 8, n + lane / 8));
    }
  }

  // Adds a^T y, with y the rows of this pass of G a, and the diagonal terms of a^T G a.
  DEVICE void add_form(const Block& y) {
    // All of G a is relative to the last shift, of its lower half each pass to its own.
    if (!kBounded && at.pass) rescale_sums<kKeep ? 1 : 2, 2>(first, second, shifts(at.pass - 1), shifts(at.pass));
    Columns form, diagonal;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float norm =
          p.region_norms[static_cast<int64_t>(at.item.image) * p.side + region(r)] / p.unscale[at.item.image];
      uint32_t pairs[kSlots];
      load_attention(r, pairs);
#pragma unroll
      for (int n = 0; n < kSlots; ++n) {
        const float a[2] = {low<Float16>(pairs[n]), high<Float16>(pairs[n])};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float square = a[i] * y[n][2 * r + i], own = a[i] * norm * (a[i] * norm);
          form[2 * n + i] = r ? form[2 * n + i] + square : square;
          diagonal[2 * n + i] = r ? diagonal[2 * n + i] + own : own;
        }
      }
    }
    add_folded(first, form), add_folded(second, diagonal);
  }
  DEVICE void add_context(const Block& c) {
    Columns squares;
#pragma unroll
    for (int n = 0; n < kSlots; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) squares[2 * n + i] = c[n][i] * c[n][i] + c[n][2 + i] * c[n][2 + i];
    add_folded(first, squares);
  }

  // The sums of all warps: of the affinities they are kept, with those of |c|^2 the similarity is complete.
  DEVICE void finish_part() {
    store_folded(first, partials(0) + warp * kWords * 4);
    store_folded(second, partials(1) + warp * kWords * 4);
    sync_block();
    if (thread() >= kWords) return;
    const float sums[2] = {joined_rows<kWarps>(partials(0), thread(), plus),
                           joined_rows<kWarps>(partials(1), thread(), plus)};
    const uint32_t kept = shared + kSums + thread() * 8;
    if (kCosine && at.part == Part::kAffinity) return store_shared(kept, float2{sums[0], sums[1]});
    float2 affinity{sums[0], sums[1]};
    if (kCosine) affinity = load_shared<float2>(kept);
    const float shift = kBounded || !kKeep ? p.scale : load_shared<float>(shifts(at.passes - 1) + thread() * 4);
    // The products that are kept are normalized.
    const float square = kKeep && !at.direct() ? sums[0] * affinity.y : sums[0];
    finish<kKeep>(p, at.item, at.tile, thread(), affinity.x, affinity.y, square, sums[1], shift);
  }
};

template <class T, WordNorm kNorm, bool kBounded, bool kCosine, bool kKeep>
KERNEL LAUNCH_BOUNDS(kThreads, 1) void forward(const GRID_CONSTANT ForwardProblem p) {
  Forward<T, kNorm, kBounded, kCosine, kKeep>(p, shared_base()).run();
}

}  // namespace sm80
}  // namespace gloria_cuda
