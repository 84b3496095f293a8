// Similarities of the words of texts of one tile with images of up to 384 regions, on sm_90a: regions are rows, words
// columns. One warp fetches, by the copy engine; three warpgroups take 64 regions each and multiply by wgmma, in
// passes. The CTAs of a cluster take different tiles with the same image, and each fetches its share of the regions for
// all. The attention stays in shared memory as right operand of the product with the Gram matrix. What needs another
// way (see launch.h) is done by forward_sm80.h, on sm_90 as well.
#pragma once

#include "attention.h"
#include "ring_sm90.h"

namespace gloria_cuda {
namespace sm90 {

constexpr int kConsumers = 3, kBlock = 64, kPassRows = kConsumers * kBlock, kBlocks = kOnChip * kRows / kBlock,
              kDepth = 64, kStages = 3;
constexpr int kShare = kPassRows / kCtas, kThreads = 128 * (1 + kConsumers), kWarps = 4 * kConsumers;
constexpr uint32_t kRow = 2 * kDepth, kLeft = kPassRows * kRow, kTile = kWords * kRow, kStage = kLeft + kTile;
constexpr uint32_t kAttention = kStages * kStage;             // tiles of 64 regions, a row for each word
constexpr uint32_t kPartials = kAttention + kBlocks * kTile;  // 128 columns from each warp
constexpr uint32_t kShifts = kPartials + kWarps * kWords * 4;
constexpr uint32_t kSums = kShifts + kBlocks / kConsumers * kWords * 4, kBarriers = kSums + 2 * kWords * 4;
constexpr uint32_t kShared = kBarriers + Ring<kStages>::kBytes;
static_assert(kShared <= 227 << 10);

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
  DEVICE int passes(const Item& item) const {
    return static_cast<int>((p.region_lengths[item.image] + kPassRows - 1) / kPassRows);
  }
};

template <bool kKeep>
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

template <class T, WordNorm kNorm, bool kBounded, bool kCosine, bool kKeep>
struct Consumer {
  // Registers for the sums of two regions at once are there only where one is kept as packed attention, or nothing is.
  static constexpr bool kFoldEach = kKeep && !kCosine;
  using Words = Block<kSlots>;

  const ForwardProblem& p;
  const uint32_t shared;
  Ring<kStages> ring;
  int pass = 0;
  Item item;
  Folded<kSlots> first, second;  // as in forward_sm80.h

  DEVICE Consumer(const ForwardProblem& p, uint32_t shared, Ring<kStages> ring) : p(p), shared(shared), ring(ring) {}

  DEVICE void run() {
#pragma unroll 1
    for (Work work(p); !work.done(); work.next()) {
      item = work.item();
      const int passes = work.passes(item);
      clear();
      // Both products by one piece of code: the assembler gives every set of accumulators registers of its own for the
      // whole kernel.
#pragma unroll 1
      for (int phase = 0; phase < (kCosine ? 2 : 1) * passes; ++phase) {
        const bool form = phase >= passes;
        pass = form ? phase - passes : phase;
        if (kCosine && phase == passes) {
          fence_proxy_async();  // the attention was stored by threads, and wgmma reads it
          keep_sums();
          clear();
          if (kKeep) sync();  // every thread divides by them
        }
        Words s;
        multiply(s, form, passes);
        if (form) {
          if constexpr (kKeep)
            keep_products<T>(p, again(item.image), again(region(0)), again(tile()) * kWords, again(shared) + kSums, s);
          add_form(s);
        } else {
          if constexpr (kKeep) keep_affinities<T>(p, again(item.image), again(region(0)), again(tile()) * kWords, s);
          attend(s, texts_of(p.plan, tile()));
        }
      }
      finish_item(passes);
    }
  }

 private:
  DEVICE int tile() const { return p.plan.runs[item.run]; }
  DEVICE static int lane() { return thread() % 32; }
  DEVICE static int warp() { return thread() / 32 % 4; }  // of its group
  DEVICE static int group() { return thread() / 128 - 1; }
  DEVICE static int number() { return thread() - 128; }  // among the consumers
  DEVICE uint32_t partial() const { return shared + kPartials + (group() * 4 + warp()) * kWords * 4; }
  DEVICE uint32_t shifts(int which) const { return shared + kShifts + which * kWords * 4; }
  DEVICE int region(int r) const { return pass * kPassRows + group() * kBlock + warp() * 16 + r * 8 + lane() / 4; }
  DEVICE void sync() const { sync_threads(1, 128 * kConsumers); }
  DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i) first[i] = second[i] = 0;
  }

  template <class Operand>
  DEVICE static void multiply_stage(float (&d)[4 * kSlots], uint64_t left, uint64_t right, bool accumulate) {
    wgmma_fence();
#pragma unroll
    for (int k16 = 0; k16 < kDepth / 16; ++k16)
      wgmma<Operand, kWords>(d, left + k16 * 2, right + k16 * 2, accumulate || k16 > 0);
    wgmma_commit();
  }
  DEVICE void multiply(Words& s, bool form, int passes) {
    float (&d)[4 * kSlots] = reinterpret_cast<float (&)[4 * kSlots]>(s);
    const int block = pass * kConsumers + group(),
              steps = form ? (kKeep ? passes : pass + 1) * kConsumers : p.dim / kDepth;
    const int last = form && !kKeep ? block : steps - 1;
#pragma unroll 1
    for (int k = 0; k <= last; ++k) {
      ring.wait();
      if (!kBounded && form && k && k % kConsumers == 0) {
        wgmma_wait<0>(d);
        rescale_block(s, shifts(k / kConsumers - 1), shifts(k / kConsumers));
      }
      const uint64_t left = descriptor(shared + ring.slot * kStage + group() * kBlock * kRow);
      const uint64_t right = descriptor(form ? shared + kAttention + k * kTile : shared + ring.slot * kStage + kLeft);
      // Each with its own fence: a branch between fence and product would cost another.
      if (kCosine && form)
        multiply_stage<Float16>(d, left, right, k > 0);
      else
        multiply_stage<T>(d, left, right, k > 0);
      if (k) {
        wgmma_wait<1>();
        ring.release(ring.before());
      }
      ring.next();
    }
    wgmma_wait<0>(d);
    ring.release(ring.before());
    // Blocks right of this group's diagonal were fetched for the groups below.
    for (int k = last + 1; k < steps; ++k) ring.wait(), ring.release(ring.slot), ring.next();
  }

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
    store_folded(best, partial());
    sync();
    if (number() < kWords) {
      float top = joined_rows<kWarps>(shared + kPartials, number(), larger);
      if (pass) top = fmaxf(top, load_shared<float>(shifts(pass - 1) + number() * 4));
      store_shared(shifts(pass) + number() * 4, top);
    }
    sync();
    if (pass) rescale_sums<1>(first, second, shifts(pass - 1), shifts(pass));
  }

  // Where this lane()'s part of the 8 x 8 matrices lies that hold 8 regions and the words of slot n + lane() / 8.
  DEVICE uint32_t attention_at(int r, int n) const {
    const int word = (n + lane() / 8) * kSlot + lane() % 8, chunk = warp() * 2 + r;
    return shared + kAttention + (pass * kConsumers + group()) * kTile + word * kRow + ((chunk ^ (word & 7)) << 4);
  }

  DEVICE void attend(const Words& s, const Texts& texts) {
    const int length = static_cast<int>(p.region_lengths[item.image]);
    if constexpr (!kBounded) raise_shifts(s, texts, length);
    Columns<kSlots> products, sums;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (r && never(p)) return;
      Columns<kSlots> logit[1], &a = logit[0];
      float weight[1][kSlots];
      logits<kNorm>(s, r, texts, NoOthers(), p.scale, nullptr, logit, weight);
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
      }
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
#pragma unroll
      for (int i = 0; i < 2 * kSlots; ++i) {
        const float product = a[i] * s[i / 2][2 * r + i % 2];
        products[i] = r && !kFoldEach ? products[i] + product : product;
        sums[i] = r && !kFoldEach ? sums[i] + a[i] : a[i];
      }
      if (r || kFoldEach) add_folded(first, products), add_folded(second, sums);
    }
  }

  DEVICE void add_form(const Words& y) {
    if (!kBounded && pass) rescale_sums<kKeep ? 1 : 2, 2>(first, second, shifts(pass - 1), shifts(pass));
    Columns<kSlots> form, diagonal;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // The last pass may reach behind the padded rows; there is no attention then, and its norm is not read.
      const float norm = region(r) < p.side ? p.region_norms[static_cast<int64_t>(item.image) * p.side + region(r)] /
                                                  p.unscale[item.image]
                                            : 0.f;
#pragma unroll
      for (int n = 0; n < kSlots; n += 4) {
        uint32_t pairs[4];
        ldmatrix_transposed(pairs, attention_at(r, n));
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float a = i % 2 ? high<Float16>(pairs[i / 2]) : low<Float16>(pairs[i / 2]);
          const float square = a * y[n + i / 2][2 * r + i % 2], own = a * norm * (a * norm);
          form[2 * n + i] = r ? form[2 * n + i] + square : square;
          diagonal[2 * n + i] = r ? diagonal[2 * n + i] + own : own;
        }
      }
    }
    add_folded(first, form), add_folded(second, diagonal);
  }

  // The sum over all warps of one of the two, for the first 128 threads.
  DEVICE float sum_of(const Folded<kSlots>& sums) const {
    sync();  // as above
    store_folded(sums, partial());
    sync();
    return number() < kWords ? joined_rows<kWarps>(shared + kPartials, number(), plus) : 0.f;
  }
  DEVICE void keep_sums() {
    const float d = sum_of(first), l = sum_of(second);
    if (number() < kWords) store_shared(shared + kSums + number() * 8, float2{d, l});
  }
  DEVICE void finish_item(int passes) {
    const float one = sum_of(first), other = sum_of(second);
    if (number() >= kWords) return;
    float2 affinity{one, other};
    if (kCosine) affinity = load_shared<float2>(shared + kSums + number() * 8);
    const float shift = kBounded || !kKeep ? p.scale : load_shared<float>(shifts(passes - 1) + number() * 4);
    // The products that are kept are normalized.
    finish<kKeep>(p, item, tile(), number(), affinity.x, affinity.y, kKeep ? one * affinity.y : one, other, shift);
  }
};

template <class T, WordNorm kNorm, bool kBounded, bool kCosine, bool kKeep>
KERNEL LAUNCH_BOUNDS(kThreads, 1) void forward(const GRID_CONSTANT Problem problem) {
  const uint32_t shared = shared_base();
  const Ring<kStages> ring{shared + kBarriers};
  ring.make(kWarps);
  if (thread() < 128) {
    fewer_registers<24>();
    if (thread() == 0) fetch<kKeep>(problem, shared, ring, kCosine);
  } else {
    more_registers<160>();
    Consumer<T, kNorm, kBounded, kCosine, kKeep>(problem.p, shared, ring).run();
  }
}

}  // namespace sm90
}  // namespace gloria_cuda
