// Similarities of every word with every image on sm_80 and later: regions are rows, words columns, 128 x 128 at a time
// by mma.sync, fed by cp.async. A warp has 32 regions and half of the tile's words, so that what it reads of shared
// memory takes no longer than its products; of a text that crosses the middle, the two warps that have it exchange what
// they know. For the cosine the attention of the whole image stays in shared memory, or in a scratch of the block, as
// right operand of the product that gives |c|^2. The first steps of a product are made between the parts of the code
// for the one before, once half of that has left its registers; half of the warps make them while the other half is at
// that code.
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
    other.levels += turn * kLevelsOfTurn;
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
  using Tall = Block<kN>[kTall];  // region r of a lane is r % 2 of block r / 2
  static constexpr int kRegions = 2 * kTall, kValues = kRegions * 2 * kN;
  using Values = float[kValues];

  const ForwardProblem& p;
  const uint32_t shared;
  Loader<kCosine> loader;
  Position<kCosine> at;
  // The next product: its steps so far and in all (0: it has not begun), and whether it is one with the attention, and
  // of which pass.
  Tall next;
  int step = 0, steps = 0, pass = 0;
  bool form = false;
  int slot = 0;
  bool entered = false;  // the step of that slot
  // Over the regions of this warp, relative to the last shift: sums of a s and a, then of |c|^2 and a^2 |v|^2.
  Folded<kN> first, second;

  DEVICE Forward(const ForwardProblem& p, uint32_t shared) : p(p), shared(shared), loader(p, shared), at(p) {}

  DEVICE void run() {
#pragma unroll 1
    for (int i = 0; i < kStages - 1; ++i) loader.prepare(), loader.next(i, false);
    meet();
    at.store(parked());
    if (!at.done()) begin(false, 0);
#pragma unroll 1
    while (!at.done()) {
      Tall s;
      take(s);
      if (at.pass == 0) {
#pragma unroll
        for (int i = 0; i < kN / 4; ++i) first[i] = second[i] = 0;
      }
      if (at.context()) {
        if (kKeep && !at.direct())
#pragma unroll
          for (int m = 0; m < kTall; ++m)
            keep_products<T>(p, again(at.item.image), region(2 * m), again(at.tile) * kWords + again(right()) * kHalf,
                             shared + kSums + right() * kHalf * 8, s[m]);
        begin_ahead();
        at.direct() ? add_context(s) : add_form(s);
      } else {
        if constexpr (kKeep)
#pragma unroll
          for (int m = 0; m < kTall; ++m)
            keep_affinities<T>(p, again(at.item.image), region(2 * m), again(at.tile) * kWords + right() * kHalf, s[m]);
        const Texts tile = texts_of(p.plan, at.tile),
                    texts{tile.real >> right() * 2 * kN, tile.continues >> right() * kN};
        const OtherHalf other(shared + kLevels + down() * kTurns * kLevelsOfTurn, right(), 1 + down(), tile.continues);
        at.part == Part::kLevels ? add_levels(s, texts, other) : attend(s, texts, other);
      }
      at.load(parked());
      if (!at.next_pass()) {
        if (at.part != Part::kLevels) finish_part();
        at.next_part();
      }
      at.store(parked());
      if (!steps && !at.done()) begin(at.context(), at.pass);
    }
    meet();
    wait_copies<0>();
  }

 private:
  DEVICE static Values& flat(Tall& s) { return reinterpret_cast<Values&>(s); }
  DEVICE static int lane() { return thread() % 32; }
  DEVICE static int down() { return thread() / 64; }       // of the warps that share words
  DEVICE static int right() { return thread() / 32 % 2; }  // of those that share regions
  // What is not needed beside the products waits in shared memory.
  DEVICE uint32_t parked() const { return shared + kPositions + (thread() / 32 * 2 + 1) * 32; }
  DEVICE uint32_t attention() const { return shared + kAttention; }
  DEVICE uint32_t partials(int which) const { return shared + kPartials + which * kDown * kWords * 4; }
  DEVICE uint32_t partial(int which) const { return partials(which) + (down() * kWords + right() * kHalf) * 4; }
  DEVICE uint32_t shifts(int pass) const { return shared + (at.off_chip() ? kAttention : kShifts) + pass * kWords * 4; }
  DEVICE uint32_t own_shifts(int pass) const { return shifts(pass) + right() * kHalf * 4; }
  DEVICE int row(int m) const { return at.pass * kRows + (down() * kTall + m) * 16; }
  DEVICE int region(int r) const { return row(0) + r * 8 + lane() / 4; }
  // Of a text that fills several tiles.
  DEVICE Level* level(int r) const {
    return reinterpret_cast<Level*>(p.levels) + static_cast<int64_t>(block()) * p.side + region(r);
  }

  DEVICE const Level* long_level(int r) const { return at.span() > 1 ? level(r) : nullptr; }

  // Between two entries early warps multiply and then turn to other code; late ones, those of the lower half of the
  // regions, do that code first.
  DEVICE static bool late() { return gpu::any(thread() >= kThreads / 2); }
  // All copies for the next step are there, and the one before has been multiplied by all warps.
  DEVICE void enter(bool attention_made) {
    wait_copies<kStages - 2>();
    sync_block();
    loader.next(slot == 0 ? kStages - 1 : slot - 1, attention_made);
    entered = true;
  }
  // What all warps have done before is there for all. Late warps have entered the next step already.
  DEVICE void meet() {
    if (!entered) enter(false);
    sync_block();
  }
  // In two turns, for either order of the same code.
  template <class Multiply>
  DEVICE void make_step(Multiply&& multiply, bool attention_made) {
    const bool first = late();
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn)
      if ((turn == 0) == first) {
        multiply();
        slot = slot + 1 == kStages ? 0 : slot + 1, entered = false;
      } else if (!entered) {
        enter(attention_made);
      }
  }
  DEVICE void begin(bool of_form, int of_pass) {
    form = of_form, pass = of_pass, step = 0;
    steps = at.steps(form, pass);
    // What was to be copied before the attention was made has not been.
    if (form && pass == 0 && at.off_chip())
#pragma unroll 1
      for (int i = 0; i < kStages; ++i) make_step([] {}, true);
#pragma unroll
    for (int i = 0; i < kValues; ++i) flat(next)[i] = 0;
  }
  // Begins the next product where it needs nothing of the code that is still to come. With fewer steps the loader would
  // go further than it has prepared.
  DEVICE void begin_ahead() {
    if (p.dim < 4 * kDepth) return;
    const bool same = at.pass + 1 < at.passes_of_part();
    if (same || (at.context() == kCosine && at.goes_on())) begin(same && at.context(), at.pass + 1);
  }
  // Makes a step of the next product, where one is left. `kForm`: it may be one with the attention.
  template <bool kForm>
  DEVICE void go_on() {
    if (step == steps) return;
    const bool of_form = kForm && kCosine && form;
    make_step([&] { of_form ? multiply_attention() : multiply_words(); }, of_form);
    ++step;
  }
  // The rest of the steps, and what they come to.
  DEVICE void take(Tall& s) {
#pragma unroll 1
    for (;;) {
      loader.prepare();
      if (step == steps) break;
      go_on<true>();
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) flat(s)[i] = flat(next)[i];
    step = steps = 0;
  }

  // The number of this thread. What is made of it is made anew, not kept in registers.
  DEVICE static uint32_t anew() { return again(static_cast<uint32_t>(thread())); }
  // Where this lane reads the left operand of a stage. For the next 16 columns chunks differ in one bit.
  DEVICE static uint32_t of_left(uint32_t stage) {
    const uint32_t number = anew(), lane = number % 32, down = number / 64;
    return narrow(stage, down * kTall * 16 + lane % 16, lane / 16);
  }
  template <class Operand>
  DEVICE void multiply(const uint32_t (&a)[kTall][4], const uint32_t (&b)[4], int n) {
#pragma unroll
    for (int m = 0; m < kTall; ++m)
      mma<Operand>(next[m][n], a[m], b[0], b[1]), mma<Operand>(next[m][n + 1], a[m], b[2], b[3]);
  }
  DEVICE void multiply_words() {
    const uint32_t stage = shared + slot * kStage, left = of_left(stage);
    const uint32_t number = anew(), lane = number % 32, half = number / 32 % 2 * kHalf;
    const uint32_t of_words = narrow(stage + kOperand, half + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int k16 = 0; k16 < kDepth / 16; ++k16) {
      uint32_t a[kTall][4];
#pragma unroll
      for (int m = 0; m < kTall; ++m) ldmatrix(a[m], (left ^ k16 * 32) + m * 16 * kNarrow);
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        uint32_t b[4];
        ldmatrix(b, (of_words ^ k16 * 32) + n * kSlot * kNarrow);
        multiply<T>(a, b, n);
      }
    }
  }

  // A step of the product of the left operand with the attention, pass after pass of the regions; each was stored
  // relative to its own shift.
  DEVICE void multiply_attention() {
    const bool direct = at.direct(), full = kKeep || direct;
    if (!kBounded && step && step % kStepsOfPass == 0)
#pragma unroll
      for (int m = 0; m < kTall; ++m)
        rescale_block(next[m], own_shifts(step / kStepsOfPass - 1), own_shifts(step / kStepsOfPass));
    const uint32_t stage = shared + slot * kStage, left = of_left(stage);
    const uint32_t number = anew(), lane = number % 32, down = number / 64, half = number / 32 % 2 * kN;
    const uint32_t last_row = pass * kRows + (down * kTall + kTall - 1) * 16;
    const uint32_t right =
        wide(at.off_chip() ? stage + kOperand : attention() + step * kOperand, lane % 16, half + lane / 16);
#pragma unroll
    for (int k16 = 0; k16 < kDepth / 16; ++k16) {
      if (!full && step * kDepth + k16 * 16 > last_row) continue;  // above the diagonal there are zeros
      uint32_t a[kTall][4];
#pragma unroll
      for (int m = 0; m < kTall; ++m)
        if (direct)
          ldmatrix_transposed(a[m],
                              wide(stage, k16 * 16 + lane / 16 * 8 + lane % 8, (down * kTall + m) * 2 + lane / 8 % 2));
        else
          ldmatrix(a[m], (left ^ k16 * 32) + m * 16 * kNarrow);
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        uint32_t b[4];
        ldmatrix_transposed(b, (right ^ n * 16) + k16 * 16 * kWide);
        multiply<Float16>(a, b, n);
      }
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
        if (right() == 0 && lane() % 4 == 0) *level(r) = at.tile == at.first() ? all[0] : level(r)->join(all[0]);
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
    meet();  // what was there has been read
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
    // The first half of the regions makes room for the next product. Two at a time take fewer instructions, for which
    // there are registers where neither shifts nor exact logits are needed.
    Columns<kN> products, sums;
    if constexpr (kBounded && !kKeep) {
      attend_to<0, 2>(s, texts, other, length, products, sums);
    } else {
      attend_to<0, 1>(s, texts, other, length, products, sums);
      attend_to<1, 1>(s, texts, other, length, products, sums);
    }
    begin_ahead();
    attend_to<2, 1>(s, texts, other, length, products, sums);
    attend_to<3, 1>(s, texts, other, length, products, sums);
    go_on<false>();
    add_folded(first, products);
    go_on<false>();
    add_folded(second, sums);
  }
  // Attends to kR regions of a lane from kFirst on.
  template <int kFirst, int kR>
  DEVICE void attend_to(const Tall& s, const Texts& texts, const OtherHalf& other, int length, Columns<kN>& products,
                        Columns<kN>& sums) {
    constexpr bool kBeside = kFirst >= kRegions / 2;
    if (kFirst && never(p)) return;
    Columns<kN> x[kR];
    float weight[kR][kN];
    logits<kNorm>(s[kFirst / 2], kFirst % 2, texts, other.in_turn(kFirst), p.scale, long_level(kFirst), x, weight);
    if constexpr (kBeside) go_on<false>();
#pragma unroll
    for (int i = 0; i < kR; ++i) {
      const int r = kFirst + i;
      const float none = region(r) < length ? 0.f : infinity();
      uint32_t pairs[kN];
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        float a[2], shift[2] = {p.scale + none, p.scale + none};
        if constexpr (!kBounded) {
          const float2 pair = load_shared<float2>(own_shifts(at.pass) + (n * kSlot + lane() % 4 * 2) * 4);
          shift[0] = pair.x + none, shift[1] = pair.y + none;
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float above = relative < kKeep && !kBounded > (x[i][2 * n + j], weight[i][n], shift[j]);
          a[j] = exp2_fast(above);
        }
        if constexpr (kCosine) {
          pairs[n] = pack<Float16>(a[0], a[1]);
          a[0] = low<Float16>(pairs[n]), a[1] = high<Float16>(pairs[n]);  // numerator and norm see the same attention
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float product = a[j] * s[r / 2][n][2 * (r % 2) + j];
          products[2 * n + j] = r ? products[2 * n + j] + product : product;
          sums[2 * n + j] = r ? sums[2 * n + j] + a[j] : a[j];
        }
      }
      if constexpr (kCosine) store_attention(r, pairs);
    }
    if constexpr (kBeside) go_on<false>();
  }
  DEVICE uint32_t* scratch(int r) const {
    return reinterpret_cast<uint32_t*>(p.scratch) +
           ((static_cast<int64_t>(block()) * p.side + region(r)) * kWords + right() * kHalf) / 2 + lane() % 4;
  }
  DEVICE void store_attention(int r, const uint32_t (&pairs)[kN]) const {
    if (at.off_chip()) {
      uint32_t* to = scratch(r);
#pragma unroll
      for (int n = 0; n < kN; ++n) to[n * kSlot / 2] = pairs[n];
    } else {
#pragma unroll
      for (int n = 0; n < kN; ++n)
        store_shared(wide(attention(), region(r), again(right()) * kN + n) + lane() % 4 * 4, pairs[n]);
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
                 wide(attention(), region(r) - lane() / 4 + anew() % 8, right() * kN + n + anew() % 32 / 8));
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
      if (r) go_on<true>();
      const int image = again(at.item.image);
      const float norm = p.region_norms[static_cast<int64_t>(image) * p.side + region(r)] / p.unscale[image];
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
    go_on<true>();
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
    meet();  // what was there has been read
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
