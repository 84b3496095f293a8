// Similarities of every word with every image on sm_80 and later: regions are rows, words columns, 128 x 128 at a time
// by mma.sync, fed by cp.async. A warp has 32 regions and half of the tile's words, so that what it reads of shared
// memory takes no longer than its products; of a text that crosses the middle, the two warps that have it exchange what
// they know. For the cosine the attention of the whole image stays in shared memory, or in a scratch of the block, as
// right operand of the product that gives |c|^2.
#pragma once

#include "loader_sm80.h"

namespace gloria_cuda {
namespace sm80 {

// The warp that has the other half of the tile's words, for a text that crosses the middle.
struct OtherHalf : NoOthers {
  static constexpr bool kExist = true;

  uint32_t levels;      // where these two warps leave those of 16 regions
  int right, barrier;   // whether this warp has the right half; of these two warps
  uint32_t shared = 0;  // bit n: slot n of this half belongs to that text

  DEVICE OtherHalf(uint32_t levels, int right, int barrier, uint32_t continues)
      : levels(levels), right(right), barrier(barrier) {
    bool connected = continues >> kN & 1;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const int n = right ? i : kN - 1 - i;
      if (connected) shared |= 1u << n;
      connected = connected && continues >> (right ? kN + n + 1 : n) & 1;
    }
  }
  // Levels of the next regions may be written before all of the last are read: they take turns.
  DEVICE OtherHalf in_turn(int turn) const {
    OtherHalf other = *this;
    other.levels += turn % 2 * kLevelsOfTurn;
    return other;
  }
  // What both have of that text, for some regions of a lane. Both warps ask, or neither.
  template <int kR>
  DEVICE void join(Level (&own)[kR]) const {
#pragma unroll
    for (int i = 0; i < kR; ++i)
      if (thread() % 4 == 0) store_shared(place(i, right), float2{own[i].top, own[i].sum});
    sync_threads(barrier, 64);
#pragma unroll
    for (int i = 0; i < kR; ++i) {
      const float2 other = load_shared<float2>(place(i, 1 - right));
      own[i] = own[i].join({other.x, other.y});
    }
  }
  DEVICE Level own(const float (&top)[kN], const float (&sum)[kN]) const {
    return right ? Level{top[0], sum[0]} : Level{top[kN - 1], sum[kN - 1]};
  }
  template <int kR>
  DEVICE void share(const float (&top)[kR][kN], float (&sum)[kR][kN]) const {
    if (!shared) return;
    Level all[kR];
#pragma unroll
    for (int i = 0; i < kR; ++i) all[i] = own(top[i], sum[i]);
    join(all);
#pragma unroll
    for (int i = 0; i < kR; ++i) {
      // Relative to the maximum here; infinite where that is nothing beside the other.
      const float relative = all[i].sum * exp2_fast((all[i].top - own(top[i], sum[i]).top) * kLog2e);
#pragma unroll
      for (int n = 0; n < kN; ++n) sum[i][n] = shared >> n & 1 ? relative : sum[i][n];
    }
  }

 private:
  DEVICE uint32_t place(int i, int half) const { return levels + (i * 8 + thread() % 32 / 4) * 16 + half * 8; }
};

// `kBounded`: logits lie in [0, scale] and scale is small: attention needs no maximum over the regions.
// `kKeep`: for backward, what p.kept says is written.
template <class T, WordNorm kNorm, bool kBounded, bool kCosine, bool kKeep>
struct Forward {
  // Regions that are attended at once: with shifts of their own there are registers for one.
  static constexpr int kR = kBounded ? 2 : 1;

  const ForwardProblem& p;
  const uint32_t shared;
  const int lane, down, right;  // of the warps that share words, and of those that share regions
  Loader<kCosine> loader;
  Position<kCosine> at;
  int slot = 0;
  // Over the regions of this warp, relative to the last shift: sums of a s and a, then of |c|^2 and a^2 |v|^2.
  Folded<kN> first, second;

  DEVICE Forward(const ForwardProblem& p, uint32_t shared)
      : p(p),
        shared(shared),
        lane(thread() % 32),
        down(thread() / 32 % kDown),
        right(thread() / 32 / kDown),
        loader(p, shared),
        at(p) {}

  DEVICE void run() {
    for (int i = 0; i < kStages - 1; ++i) loader.next(i, false);
#pragma unroll 1
    while (!at.done()) {
      Tall s = {};
      if (at.context() && at.pass == 0 && at.off_chip()) {
        sync_block();  // the attention is complete: the loader may go on, and is waited for
        for (int i = 0; i < kStages - 1; ++i) step([] {}, true);
      }
      if (at.pass == 0) {
#pragma unroll
        for (int i = 0; i < kN / 4; ++i) first[i] = second[i] = 0;
      }
      if (at.context()) {
        multiply_attention(s);
        if (kKeep && !at.direct())
#pragma unroll
          for (int m = 0; m < kTall; ++m)
            keep_products<T>(p, again(at.item.image), region(2 * m), again(at.tile) * kWords + right * kHalf,
                             shared + kSums + right * kHalf * 8, s[m]);
        at.direct() ? add_context(s) : add_form(s);
      } else {
#pragma unroll 1
        for (int k = 0; k < at.steps(); ++k) step([&] { multiply_words(s); }, false);
        if constexpr (kKeep)
#pragma unroll
          for (int m = 0; m < kTall; ++m)
            keep_affinities<T>(p, again(at.item.image), region(2 * m), again(at.tile) * kWords + right * kHalf, s[m]);
        const Texts tile = texts_of(p.plan, at.tile), texts{tile.real >> right * 2 * kN, tile.continues >> right * kN};
        const OtherHalf other(shared + kLevels + down * 2 * kLevelsOfTurn, right, 1 + down, tile.continues);
        at.part == Part::kLevels ? add_levels(s, texts, other) : attend(s, texts, other);
      }
      if (at.next_pass()) continue;
      if (at.part != Part::kLevels) finish_part();
      at.next_part();
    }
    wait_copies<0>();
  }

 private:
  using Tall = Block<kN>[kTall];  // region r of a lane is r % 2 of block r / 2
  static constexpr int kRegions = 2 * kTall;

  DEVICE uint32_t attention() const { return shared + kAttention; }
  DEVICE uint32_t partials(int which) const { return shared + kPartials + which * kDown * kWords * 4; }
  DEVICE uint32_t partial(int which) const { return partials(which) + (down * kWords + right * kHalf) * 4; }
  DEVICE uint32_t shifts(int pass) const { return shared + (at.off_chip() ? kAttention : kShifts) + pass * kWords * 4; }
  DEVICE uint32_t own_shifts(int pass) const { return shifts(pass) + right * kHalf * 4; }
  DEVICE int row(int m) const { return at.pass * kRows + (down * kTall + m) * 16; }
  DEVICE int region(int r) const { return row(0) + r * 8 + lane / 4; }
  // Of a text that fills several tiles.
  DEVICE Level* level(int r) const {
    return reinterpret_cast<Level*>(p.levels) + static_cast<int64_t>(block()) * p.side + region(r);
  }

  DEVICE const Level* long_level(int r) const { return at.span() > 1 ? level(r) : nullptr; }

  template <class Multiply>
  DEVICE void step(Multiply&& multiply, bool attention_made) {
    wait_copies<kStages - 2>();
    sync_block();
    loader.next(slot == 0 ? kStages - 1 : slot - 1, attention_made);
    multiply();
    slot = slot + 1 == kStages ? 0 : slot + 1;
  }

  DEVICE void multiply_words(Tall& s) const {
    const uint32_t of_regions = shared + slot * kStage, of_words = of_regions + kOperand;
#pragma unroll
    for (int k16 = 0; k16 < kDepth / 16; ++k16) {
      uint32_t a[kTall][4];
#pragma unroll
      for (int m = 0; m < kTall; ++m)
        ldmatrix(a[m], narrow(of_regions, (down * kTall + m) * 16 + lane % 16, k16 * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        uint32_t b[4];
        const int word = right * kHalf + n * 8 + lane % 8 + lane / 16 * 8;
        ldmatrix(b, narrow(of_words, word, k16 * 2 + lane / 8 % 2));
#pragma unroll
        for (int m = 0; m < kTall; ++m) mma<T>(s[m][n], a[m], b[0], b[1]), mma<T>(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }

  // The product of the left operand with the attention, pass after pass of the regions; each was stored relative to its
  // own shift.
  DEVICE void multiply_attention(Tall& y) {
    const bool direct = at.direct(), off_chip = at.off_chip(), full = kKeep || direct;
    const int last_row = row(kTall - 1);
#pragma unroll 1
    for (int k = 0; k < at.steps(); ++k) {
      if (!kBounded && k && k % kStepsOfPass == 0)
#pragma unroll
        for (int m = 0; m < kTall; ++m)
          rescale_block(y[m], own_shifts(k / kStepsOfPass - 1), own_shifts(k / kStepsOfPass));
      auto multiply = [&] {
        const uint32_t left = shared + slot * kStage;
        const uint32_t attended = off_chip ? left + kOperand : attention() + k * kOperand;
#pragma unroll
        for (int k16 = 0; k16 < kDepth / 16; ++k16) {
          if (!full && k * kDepth + k16 * 16 > last_row) continue;  // above the diagonal there are zeros
          uint32_t a[kTall][4];
#pragma unroll
          for (int m = 0; m < kTall; ++m) {
            const int block = down * kTall + m;
            if (direct)
              ldmatrix_transposed(a[m], wide(left, k16 * 16 + lane / 16 * 8 + lane % 8, block * 2 + lane / 8 % 2));
            else
              ldmatrix(a[m], narrow(left, block * 16 + lane % 16, k16 * 2 + lane / 16));
          }
#pragma unroll
          for (int n = 0; n < kN; n += 2) {
            uint32_t b[4];
            ldmatrix_transposed(b, wide(attended, k16 * 16 + lane % 16, right * kN + n + lane / 16));
#pragma unroll
            for (int m = 0; m < kTall; ++m)
              mma<Float16>(y[m][n], a[m], b[0], b[1]), mma<Float16>(y[m][n + 1], a[m], b[2], b[3]);
          }
        }
      };
      step(multiply, true);
    }
  }

  // Adds a tile of a text that fills several to the levels of its regions.
  DEVICE void add_levels(const Tall& s, const Texts& texts, const OtherHalf& other) const {
    if constexpr (kNorm == WordNorm::kSoftmax)
#pragma unroll
      for (int r = 0; r < kRegions; ++r) {
        Columns<kN> e[1];
        float top[1][kN], sum[1][kN];
        word_exponentials<true>(s[r / 2], r % 2, texts, NoOthers(), e, top, sum);
        Level all[1] = {other.own(top[0], sum[0])};
        other.in_turn(r).join(all);
        if (right == 0 && lane % 4 == 0) *level(r) = at.tile == at.first() ? all[0] : level(r)->join(all[0]);
      }
  }

  // The largest logit of each column so far becomes the shift of this pass, for all warps.
  DEVICE void raise_shifts(const Tall& s, const Texts& texts, const OtherHalf& other, int length) {
    Folded<kN> best;
#pragma unroll
    for (int i = 0; i < kN / 4; ++i) best[i] = -infinity();
#pragma unroll
    for (int r = 0; r < kRegions; ++r) {
      Columns<kN> logit[1], &x = logit[0];
      float weight[1][kN];
      logits<kNorm>(s[r / 2], r % 2, texts, other.in_turn(r), p.scale, long_level(r), logit, weight);
#pragma unroll
      for (int i = 0; i < 2 * kN; ++i) x[i] = region(r) < length ? x[i] * weight[0][i / 2] : -infinity();
      fold(x, larger);
#pragma unroll
      for (int i = 0; i < kN / 4; ++i) best[i] = fmaxf(best[i], x[i]);
    }
    store_folded(best, partial(0));
    sync_block();
    if (thread() < kWords) {
      float top = joined_rows<kDown>(partials(0), thread(), larger);
      if (at.pass) top = fmaxf(top, load_shared<float>(shifts(at.pass - 1) + thread() * 4));
      store_shared(shifts(at.pass) + thread() * 4, top);
    }
    sync_block();
    if (at.pass) rescale_sums<1>(first, second, own_shifts(at.pass - 1), own_shifts(at.pass));
  }

  DEVICE void attend(const Tall& s, const Texts& texts, const OtherHalf& other) {
    const int length = static_cast<int>(p.region_lengths[at.item.image]);
    if constexpr (!kBounded) raise_shifts(s, texts, other, length);
    Columns<kN> products, sums;
    Columns<kN> x[kR];
    float weight[kR][kN];
#pragma unroll
    for (int r = 0; r < kRegions; ++r) {
      if (r % kR == 0 && r && never(p)) return;
      if (r % kR == 0) logits<kNorm>(s[r / 2], r % 2, texts, other.in_turn(r / kR), p.scale, long_level(r), x, weight);
      const float none = region(r) < length ? 0.f : infinity();
      uint32_t pairs[kN];
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        float a[2], shift[2] = {p.scale + none, p.scale + none};
        if constexpr (!kBounded) {
          const float2 pair = load_shared<float2>(own_shifts(at.pass) + (n * kSlot + lane % 4 * 2) * 4);
          shift[0] = pair.x + none, shift[1] = pair.y + none;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float above = relative < kKeep && !kBounded > (x[r % kR][2 * n + i], weight[r % kR][n], shift[i]);
          a[i] = exp2_fast(above);
        }
        if constexpr (kCosine) {
          pairs[n] = pack<Float16>(a[0], a[1]);
          a[0] = low<Float16>(pairs[n]), a[1] = high<Float16>(pairs[n]);  // numerator and norm see the same attention
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float product = a[i] * s[r / 2][n][2 * (r % 2) + i];
          products[2 * n + i] = r ? products[2 * n + i] + product : product;
          sums[2 * n + i] = r ? sums[2 * n + i] + a[i] : a[i];
        }
      }
      if constexpr (kCosine) store_attention(r, pairs);
    }
    add_folded(first, products), add_folded(second, sums);
  }
  DEVICE uint32_t* scratch(int r) const {
    return reinterpret_cast<uint32_t*>(p.scratch) +
           ((static_cast<int64_t>(block()) * p.side + region(r)) * kWords + right * kHalf) / 2 + lane % 4;
  }
  DEVICE void store_attention(int r, const uint32_t (&pairs)[kN]) const {
    if (at.off_chip()) {
      uint32_t* to = scratch(r);
#pragma unroll
      for (int n = 0; n < kN; ++n) to[n * kSlot / 2] = pairs[n];
    } else {
#pragma unroll
      for (int n = 0; n < kN; ++n)
        store_shared(wide(attention(), region(r), again(right) * kN + n) + lane % 4 * 4, pairs[n]);
    }
  }
  DEVICE void load_attention(int r, uint32_t (&pairs)[kN]) const {
    if (at.off_chip()) {
      const uint32_t* from = scratch(r);
#pragma unroll
      for (int n = 0; n < kN; ++n) pairs[n] = from[n * kSlot / 2];
    } else {
#pragma unroll
      for (int n = 0; n < kN; n += 4)
        ldmatrix(reinterpret_cast<uint32_t (&)[4]>(pairs[n]),
                 wide(attention(), region(r) - lane / 4 + lane % 8, right * kN + n + lane / 8));
    }
  }

  // Adds a^T y, with y the rows of this pass of G a, and the diagonal terms of a^T G a.
  DEVICE void add_form(const Tall& y) {
    // All of G a is relative to the last shift, of its lower half each pass to its own.
    if (!kBounded && at.pass)
      rescale_sums<kKeep ? 1 : 2, 2>(first, second, own_shifts(at.pass - 1), own_shifts(at.pass));
    Columns<kN> form, diagonal;
#pragma unroll
    for (int r = 0; r < kRegions; ++r) {
      const float norm =
          p.region_norms[static_cast<int64_t>(at.item.image) * p.side + region(r)] / p.unscale[at.item.image];
      uint32_t pairs[kN];
      load_attention(r, pairs);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const float a[2] = {low<Float16>(pairs[n]), high<Float16>(pairs[n])};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float square = a[i] * y[r / 2][n][2 * (r % 2) + i], own = a[i] * norm * (a[i] * norm);
          form[2 * n + i] = r ? form[2 * n + i] + square : square;
          diagonal[2 * n + i] = r ? diagonal[2 * n + i] + own : own;
        }
      }
    }
    add_folded(first, form), add_folded(second, diagonal);
  }
  DEVICE void add_context(const Tall& c) {
    Columns<kN> squares;
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& square = squares[2 * n + i];
        square = 0;
#pragma unroll
        for (int r = 0; r < kRegions; ++r) square += c[r / 2][n][2 * (r % 2) + i] * c[r / 2][n][2 * (r % 2) + i];
      }
    add_folded(first, squares);
  }

  // The sums of all warps: of the affinities they are kept, with those of |c|^2 the similarity is complete.
  DEVICE void finish_part() {
    store_folded(first, partial(0));
    store_folded(second, partial(1));
    sync_block();
    if (thread() >= kWords) return;
    const float sums[2] = {joined_rows<kDown>(partials(0), thread(), plus),
                           joined_rows<kDown>(partials(1), thread(), plus)};
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
