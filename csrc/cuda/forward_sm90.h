// Similarities of the words of texts of one tile with images of up to 384 regions, on sm_90a: regions are rows, words
// columns. One warp fetches, by the copy engine; two warpgroups take 64 regions each and multiply by wgmma, in passes.
// What a product is for runs while the next one does: its steps are issued between the parts of that code. The CTAs of
// a cluster take different tiles with the same image, and each fetches its share of the regions for all. The attention
// stays in shared memory as right operand of the product with the Gram matrix. What needs another way (see launch.h) is
// done by forward_sm80.h, on sm_90 as well.
#pragma once

#include "attention.h"
#include "ring_sm90.h"

namespace gloria_cuda {
namespace sm90 {

constexpr int kConsumers = 2, kBlock = 64, kPassRows = kConsumers * kBlock, kBlocks = kOnChip * kRows / kBlock,
              kDepth = 64;
constexpr int kShare = kPassRows / kCtas, kThreads = 128 * (1 + kConsumers), kWarps = 4 * kConsumers;
constexpr uint32_t kRow = 2 * kDepth, kLeft = kPassRows * kRow, kTile = kWords * kRow, kStage = kLeft + kTile;
constexpr uint32_t kPartial = kWarps * kWords * 4;  // a float for each column from each warp
constexpr int kSums = 4;                            // of a column

// Shared memory. Beside four stages there is no room to join sums but that of the attention, once it has been read.
// `kEarly`: sums are joined before.
template <bool kEarly>
struct Memory {
  static constexpr int kStages = kEarly ? 3 : 4;
  static constexpr uint32_t kAttention = kStages * kStage;  // tiles of 64 regions, a row for each word
  static constexpr uint32_t kEnd = kAttention + kBlocks * kTile, kJoined = kSums * kPartial;
  static constexpr uint32_t kPartials = kEarly ? kEnd : kEnd - kJoined, kShifts = kPartials + kJoined;
  static constexpr uint32_t kTotals = kShifts + kEarly * kOnChip * kWords * 4;  // of a s and a, for each word
  static constexpr uint32_t kBarriers = kTotals + kEarly * kWords * 8;
  static constexpr uint32_t kBytes = kBarriers + Ring<kStages>::kBytes;
};
constexpr uint32_t kShared = Memory<false>::kBytes;
static_assert(Memory<true>::kBytes <= kShared && kShared <= 227 << 10);

struct Problem {
  ForwardProblem p;
  TensorMap words;    // (1, tiles * kWords, dim), boxes of kWords rows
  TensorMap regions;  // (images, side, dim), boxes of kShare rows
  TensorMap gram;     // (images, side, side), boxes of kBlock rows
};

// Pairs of tiles with images, in the order in which the clusters take them.
struct Work {
  const ForwardProblem& p;
  int number;  // a chunk of images has not 2^31 of them
  DEVICE Work(const ForwardProblem& p) : p(p), number(block() / kCtas) {}
  // Read again for each item, which costs less than to keep them.
  DEVICE int longs() const { return p.plan.counts[2]; }
  DEVICE int singles() const { return p.plan.counts[0] - longs(); }
  DEVICE int pairs() const { return (singles() + kCtas - 1) / kCtas; }
  DEVICE bool done() const { return number >= static_cast<int64_t>(pairs()) * p.images; }
  DEVICE void next() { number += blocks() / kCtas; }
  // The image, and the run of this CTA; where there is none left for it, it does the last once more.
  DEVICE Item item() const {
    Item found = item_of(number, pairs(), p.images);
    const int single = found.run * kCtas + cluster_rank();
    found.run = longs() + (single < singles() ? single : singles() - 1);
    return found;
  }
  // At least one: an image without regions, which the host cannot see, must not hang the GPU.
  DEVICE int passes(const Item& item) const {
    const int length = static_cast<int>(p.region_lengths[item.image]);
    return length > kPassRows ? (length + kPassRows - 1) / kPassRows : 1;
  }
};

template <bool kKeep, int kStages>
DEVICE void fetch(const Problem& problem, uint32_t shared, Ring<kStages> ring, bool cosine) {
  const ForwardProblem& p = problem.p;
  const int rank = cluster_rank(), depth_steps = p.dim / kDepth;
  for (Work work(p); !work.done(); work.next()) {
    const Item item = work.item();
    const int tile = p.plan.runs[item.run], passes = work.passes(item);
#pragma unroll 1
    for (int step = 0; step < passes * depth_steps; ++step) {
      const int k = step % depth_steps * kDepth, region = step / depth_steps * kPassRows + rank * kShare;
      const uint32_t to = shared + ring.slot * kStage, full = ring.expect(kStage);
      copy_tile(to + kLeft, problem.words, k, tile * kWords, 0, full);
      copy_tile(to + rank * kShare * kRow, problem.regions, k, region, item.image, full, kAllCtas);
      ring.next();
    }
    if (!cosine) continue;
    // Forward takes blocks of the Gram matrix up to the diagonal only: of a pass those rows that block k of the regions
    // is not above.
#pragma unroll 1
    for (int pass = 0; pass < passes; ++pass)
#pragma unroll 1
      for (int k = 0; k < (kKeep ? passes : pass + 1) * kConsumers; ++k) {
        const int first = !kKeep && k > pass * kConsumers ? k - pass * kConsumers : 0;
        const uint32_t to = shared + ring.slot * kStage, full = ring.expect((kConsumers - first) * kBlock * kRow);
#pragma unroll 1
        for (int box = first; box < kConsumers; ++box)
          if (box % kCtas == rank)
            copy_tile(to + box * kBlock * kRow, problem.gram, k * kBlock, (pass * kConsumers + box) * kBlock,
                      item.image, full, kAllCtas);
        ring.next();
      }
  }
  ring.drain();
}

// What the next product may be: of words with regions, of G with the attention (the form a^T G a), or, where only the
// thread knows, either.
enum class Next { kAffinities, kForm, kEither };

template <class T, WordNorm kNorm, bool kBounded, bool kCosine, bool kKeep>
struct Consumer {
  // Registers for the sums of two regions at once are there only where one is kept as packed attention, or nothing is.
  static constexpr bool kFoldEach = kKeep && !kCosine;
  // Forward, the first product with G needs the attention of the first pass alone, and runs beside the last.
  static constexpr bool kFormAhead = kCosine && !kKeep;
  using Words = Block<kSlots>;
  using Sums = Folded<kSlots>;
  using At = Memory<kKeep || !kBounded>;

  const ForwardProblem& p;
  const uint32_t shared;
  Ring<At::kStages> ring;
  int pass = 0;
  Item item;
  // Over the regions of this warp, relative to the last shift: of a s and of a; of a y, with y = G a, and of a^2 |v|^2.
  Sums affinities, attention, products, squares;
  // The next product, while it runs.
  Words next;
  bool form = false;
  int step = 0, last = -1;

  DEVICE Consumer(const ForwardProblem& p, uint32_t shared, Ring<At::kStages> ring)
      : p(p), shared(shared), ring(ring) {}

  DEVICE void run() {
    Work work(p);
    if (work.done()) return;
    begin(false, 0, 0);
#pragma unroll 1
    for (bool ended = false; !ended;) {
      item = work.item();
      const int passes = work.passes(item);
      work.next();
      ended = work.done();
      clear(affinities, attention);
      pass = 0;
#pragma unroll 1
      do {
        Words s;
        take<Next::kAffinities>(s);
        if (pass + 1 < passes) {
          begin(false, pass + 1, passes);
        } else if (kFormAhead && passes > 1) {
          attention_is_there();  // that of the first pass
          begin(true, 0, passes);
          finish_steps<Next::kForm>();
        } else if (!kCosine && !ended) {
          begin(false, 0, 0);
        }
        if constexpr (kKeep) keep_affinities<T>(p, again(item.image), again(region(0)), again(tile()) * kWords, s);
        attend(s, texts_of(p.plan, tile()));
      } while (++pass < passes);
      if constexpr (kCosine) {
        attention_is_there();
        clear(products, squares);
        if constexpr (kKeep) {
          float joined[kSums];
          join_sums(joined);
          if (number() < kWords) store_shared(shared + At::kTotals + number() * 8, float2{joined[0], joined[1]});
          sync();
        }
        if (!kFormAhead || passes == 1) begin(true, 0, passes);
        pass = 0;
#pragma unroll 1
        do {
          Words y;
          take<Next::kForm>(y);
          if (pass + 1 < passes)
            begin(true, pass + 1, passes);
          else if (!ended)
            begin(false, 0, 0);
          if constexpr (kKeep)
            keep_products<T>(p, again(item.image), again(region(0)), again(tile()) * kWords,
                             again(shared) + At::kTotals, y);
          add_form(y);
        } while (++pass < passes);
      }
      if constexpr (!kCosine) clear(products, squares);
      finish_item(passes);
    }
    wgmma_wait<0>(accumulators());  // nothing runs any more, but the assembler would wait after every step
  }

 private:
  DEVICE int tile() const { return p.plan.runs[item.run]; }
  DEVICE static int lane() { return thread() % 32; }
  DEVICE static int warp() { return thread() / 32 % 4; }  // of its group
  DEVICE static int group() { return thread() / 128 - 1; }
  DEVICE static int number() { return thread() - 128; }  // among the consumers
  DEVICE uint32_t partial(int i) const {
    return shared + At::kPartials + i * kPartial + (group() * 4 + warp()) * kWords * 4;
  }
  DEVICE uint32_t shifts(int which) const { return shared + At::kShifts + which * kWords * 4; }
  DEVICE int region(int r) const { return pass * kPassRows + group() * kBlock + warp() * 16 + r * 8 + lane() / 4; }
  DEVICE void sync() const { sync_threads(1, 128 * kConsumers); }
  DEVICE void attention_is_there() const {
    fence_proxy_async();  // it was stored by threads, and wgmma reads it
    sync();
  }
  DEVICE static void clear(Sums& one, Sums& other) {
#pragma unroll
    for (int i = 0; i < kSlots / 4; ++i) one[i] = other[i] = 0;
  }

  DEVICE float (&accumulators())[4 * kSlots] { return reinterpret_cast<float (&)[4 * kSlots]>(next); }
  template <class Operand>
  DEVICE void multiply_stage(uint64_t left, uint64_t right) {
    wgmma_fence();
#pragma unroll
    for (int k16 = 0; k16 < kDepth / 16; ++k16)
      wgmma<Operand, kWords>(accumulators(), left + k16 * 2, right + k16 * 2, step > 0 || k16 > 0);
    wgmma_commit();
  }
  DEVICE void begin(bool of_form, int of_pass, int passes) {
    form = of_form, step = 0;
    last = !form ? p.dim / kDepth - 1 : kKeep ? passes * kConsumers - 1 : of_pass * kConsumers + group();
  }
  // Issues a step of the next product, where one is left.
  template <Next kNext>
  DEVICE void go_on() {
    if (step > last) return;
    const bool of_form = kNext == Next::kEither ? form : kNext == Next::kForm;
    ring.wait();
    if (!kBounded && of_form && step && step % kConsumers == 0) {
      wgmma_wait<0>(accumulators());
      rescale_block(next, shifts(step / kConsumers - 1), shifts(step / kConsumers));
    }
    const uint64_t left = descriptor(shared + ring.slot * kStage + group() * kBlock * kRow);
    const uint64_t right =
        descriptor(of_form ? shared + At::kAttention + step * kTile : shared + ring.slot * kStage + kLeft);
    // Each with its own fence: a branch between fence and product would cost another.
    if (of_form)
      multiply_stage<Float16>(left, right);
    else
      multiply_stage<T>(left, right);
    if (step) {
      wgmma_wait<1>();
      ring.release(ring.before());
    }
    ring.next();
    ++step;
  }
  template <Next kNext>
  DEVICE void finish_steps() {
#pragma unroll 1
    while (step <= last) go_on<kNext>();
  }
  // The rest of the steps, and what they come to, in registers that the product after it leaves alone.
  template <Next kNext>
  DEVICE void take(Words& d) {
    finish_steps<kNext>();
    wgmma_wait<0>(accumulators());
    ring.release(ring.before());
    // Forward, blocks right of this group's diagonal were fetched for the groups below.
    if (kNext == Next::kForm && !kKeep)
      for (int below = group() + 1; below < kConsumers; ++below) ring.wait(), ring.release(ring.slot), ring.next();
    const float factor = one(p);
#pragma unroll
    for (int n = 0; n < kSlots; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) d[n][i] = again(next[n][i] * factor);
  }

  // Goes on with the next product between the maxima of texts and their exponentials.
  struct Beside : NoOthers {
    Consumer& consumer;
    DEVICE explicit Beside(Consumer& consumer) : consumer(consumer) {}
    DEVICE void between() const { consumer.template go_on<Next::kAffinities>(); }
  };

  DEVICE void raise_shifts(const Words& s, const Texts& texts, int length) {
    Folded<kSlots> best = {-infinity(), -infinity(), -infinity(), -infinity()};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Columns<kSlots> logit[1], &x = logit[0];
      float weight[1][kSlots];
      logits<kNorm>(s, r, texts, NoOthers(), p.scale, nullptr, logit, weight);
#pragma unroll
      for (int i = 0; i < 2 * kSlots; ++i) x[i] = region(r) < length ? x[i] * weight[0][i / 2] : -infinity();
      fold(x, larger);
#pragma unroll
      for (int i = 0; i < 4; ++i) best[i] = fmaxf(best[i], x[i]);
    }
    sync();  // what was there has been read
    store_folded(best, partial(0));
    sync();
    if (number() < kWords) {
      float top = joined_rows<kWarps>(shared + At::kPartials, number(), larger);
      if (pass) top = fmaxf(top, load_shared<float>(shifts(pass - 1) + number() * 4));
      store_shared(shifts(pass) + number() * 4, top);
    }
    sync();
    if (pass) rescale_sums<1>(affinities, attention, shifts(pass - 1), shifts(pass));
  }

  // Where this lane()'s part of the 8 x 8 matrices lies that hold 8 regions and the words of slot n + lane() / 8.
  DEVICE uint32_t attention_at(int r, int n) const {
    const int word = (n + lane() / 8) * kSlot + lane() % 8, chunk = warp() * 2 + r;
    return shared + At::kAttention + (pass * kConsumers + group()) * kTile + word * kRow + ((chunk ^ (word & 7)) << 4);
  }

  DEVICE void attend(const Words& s, const Texts& texts) {
    const int length = static_cast<int>(p.region_lengths[item.image]);
    if constexpr (!kBounded) raise_shifts(s, texts, length);
    Columns<kSlots> weighted, sums;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Columns<kSlots> logit[1], &a = logit[0];
      float weight[1][kSlots];
      if (r == 0) go_on<Next::kAffinities>();
      logits<kNorm>(s, r, texts, Beside{*this}, p.scale, nullptr, logit, weight);
      go_on<Next::kAffinities>();
      const float none = region(r) < length ? 0.f : infinity();
#pragma unroll
      for (int n = 0; n < kSlots; ++n) {
        float shift[2] = {p.scale + none, p.scale + none};
        if constexpr (!kBounded) {
          const float2 pair = load_shared<float2>(shifts(pass) + (n * kSlot + lane() % 4 * 2) * 4);
          shift[0] = pair.x + none, shift[1] = pair.y + none;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = a[2 * n + i];
          x = relative < kKeep && !kBounded > (x, weight[0][n], shift[i]);
          x = exp2_fast(x);
        }
        if (n == kSlots / 2 - 1) go_on<Next::kAffinities>();
      }
      go_on<Next::kAffinities>();
      if constexpr (kCosine) {
#pragma unroll
        for (int n = 0; n < kSlots; n += 4) {
          uint32_t pairs[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float &x = a[2 * (n + i)], &y = a[2 * (n + i) + 1];
            pairs[i] = pack<Float16>(x, y);
            x = low<Float16>(pairs[i]), y = high<Float16>(pairs[i]);
          }
          stmatrix_transposed(attention_at(r, n), pairs);
        }
      }
      go_on<Next::kAffinities>();
#pragma unroll
      for (int i = 0; i < 2 * kSlots; ++i) {
        const float product = a[i] * s[i / 2][2 * r + i % 2];
        weighted[i] = r && !kFoldEach ? weighted[i] + product : product;
        sums[i] = r && !kFoldEach ? sums[i] + a[i] : a[i];
      }
      if (r || kFoldEach) {
        go_on<Next::kAffinities>();
        add_folded(affinities, weighted);
        go_on<Next::kAffinities>();
        add_folded(attention, sums);
      }
    }
  }

  DEVICE void add_form(const Words& y) {
    if (!kBounded && pass) rescale_sums<kKeep ? 1 : 2, 2>(products, squares, shifts(pass - 1), shifts(pass));
    Columns<kSlots> form, diagonal;
    float norm[2];
#pragma unroll
    for (int r = 0; r < 2; ++r)
      // The last pass may reach behind the padded rows; there is no attention then, and its norm is not read.
      norm[r] = region(r) < p.side
                    ? p.region_norms[static_cast<int64_t>(item.image) * p.side + region(r)] / p.unscale[item.image]
                    : 0.f;
#pragma unroll
    for (int n = 0; n < kSlots; n += 4) {
      go_on<Next::kEither>();
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        uint32_t pairs[4];
        ldmatrix_transposed(pairs, attention_at(r, n));
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float a = i % 2 ? high<Float16>(pairs[i / 2]) : low<Float16>(pairs[i / 2]);
          const float square = a * y[n + i / 2][2 * r + i % 2], own = a * norm[r] * (a * norm[r]);
          form[2 * n + i] = r ? form[2 * n + i] + square : square;
          diagonal[2 * n + i] = r ? diagonal[2 * n + i] + own : own;
        }
      }
    }
    go_on<Next::kEither>();
    add_folded(products, form);
    go_on<Next::kEither>();
    add_folded(squares, diagonal);
  }

  // All sums over all warps, for the first 128 threads.
  DEVICE void join_sums(float (&joined)[kSums]) const {
    sync();  // what was there has been read
    store_folded(affinities, partial(0)), store_folded(attention, partial(1));
    store_folded(products, partial(2)), store_folded(squares, partial(3));
    sync();
#pragma unroll
    for (int i = 0; i < kSums; ++i)
      joined[i] = number() < kWords ? joined_rows<kWarps>(shared + At::kPartials + i * kPartial, number(), plus) : 0.f;
  }
  DEVICE void finish_item(int passes) {
    float joined[kSums];
    join_sums(joined);
    if (number() >= kWords) return;
    const auto [d, l, c2, q] = joined;
    const float shift = kBounded || !kKeep ? p.scale : load_shared<float>(shifts(passes - 1) + number() * 4);
    // The products that are kept are normalized.
    finish<kKeep>(p, item, tile(), number(), d, l, kKeep ? c2 * l : c2, q, shift);
  }
};

template <class T, WordNorm kNorm, bool kBounded, bool kCosine, bool kKeep>
KERNEL LAUNCH_BOUNDS(kThreads, 1) void forward(const GRID_CONSTANT Problem problem) {
  const uint32_t shared = shared_base();
  using At = Memory<kKeep || !kBounded>;
  const Ring<At::kStages> ring{shared + At::kBarriers};
  ring.make(kWarps);
  if (thread() < 128) {
    fewer_registers<24>();
    if (thread() == 0) fetch<kKeep>(problem, shared, ring, kCosine);
  } else {
    more_registers<240>();
    Consumer<T, kNorm, kBounded, kCosine, kKeep>(problem.p, shared, ring).run();
  }
}

}  // namespace sm90
}  // namespace gloria_cuda
