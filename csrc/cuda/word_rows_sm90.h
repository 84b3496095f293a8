// Similarities of words that nothing is normalized over, on sm_90a (see word_rows.h). One warp fetches, by the copy
// engine; two warpgroups take 64 words each with up to 368 regions at a time, and multiply by wgmma. They meet at the
// ring of stages alone: one attends while the other multiplies. The CTAs of a cluster take different tiles with the
// same image, and each fetches its half of the regions for all.
#pragma once

#include "ring_sm90.h"
#include "word_rows.h"

namespace gloria_cuda {
namespace rows90 {

constexpr int kConsumers = 2, kGroupWords = kWords / kConsumers, kHalf = 184, kRegions = kCtas * kHalf, kDepth = 64,
              kStages = 3;
constexpr int kThreads = 128 * (1 + kConsumers), kWarps = 4 * kConsumers;
constexpr uint32_t kRow = 2 * kDepth, kTile = kWords * kRow, kShare = kHalf * kRow, kStage = kTile + kCtas * kShare;
constexpr uint32_t kBarriers = kStages * kStage, kShared = kBarriers + Ring<kStages>::kBytes;
static_assert(kGroupWords == 64 && kShared <= 227 << 10);

struct Problem {
  ForwardProblem p;
  TensorMap words;    // (1, tiles * kWords, dim), boxes of kWords rows
  TensorMap regions;  // (images, side, dim), boxes of kHalf rows
};

struct Work : WordWork {
  DEVICE Work(const ForwardProblem& p) : WordWork{p, block() / kCtas} {}
  DEVICE void next() { number += blocks() / kCtas; }
};
// Of the regions of a pass, the halves that have any.
DEVICE int halves(int length, int first) { return length - first > kHalf ? 2 : 1; }

DEVICE void fetch(const Problem& problem, uint32_t shared, Ring<kStages> ring) {
  const ForwardProblem& p = problem.p;
  const int rank = cluster_rank();
  for (Work work(p); !work.done(); work.next()) {
    const Item item = work.item();
    const int tile = work.tile(item, rank), length = work.length(item);
#pragma unroll 1
    for (int first = 0; first < length; first += kRegions)
#pragma unroll 1
      for (int k = 0; k < p.dim; k += kDepth) {
        const uint32_t to = shared + ring.slot * kStage;
        const uint32_t full = ring.expect(kTile + halves(length, first) * kShare);
        copy_tile(to, problem.words, k, tile * kWords, 0, full);
        if (rank < halves(length, first))
          copy_tile(to + kTile + rank * kShare, problem.regions, k, first + rank * kHalf, item.image, full, kAllCtas);
        ring.next();
      }
  }
  ring.drain();
}

template <class T, int kHalves>
DEVICE void multiply_stage(float (&s)[2][kHalf / 2], uint64_t left, uint64_t right, bool accumulate) {
  wgmma_fence();
#pragma unroll
  for (int k16 = 0; k16 < kDepth / 16; ++k16)
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
      wgmma<T, kHalf>(s[half], left + k16 * 2, right + (half * kShare >> 4) + k16 * 2, accumulate || k16 > 0);
  wgmma_commit();
}

template <class T>
DEVICE void multiply(float (&s)[2][kHalf / 2], uint32_t shared, Ring<kStages>& ring, int dim, int group, int halves) {
#pragma unroll 1
  for (int k = 0; k < dim; k += kDepth) {
    ring.wait();
    const uint32_t stage = shared + ring.slot * kStage;
    const uint64_t left = descriptor(stage + group * kGroupWords * kRow), right = descriptor(stage + kTile);
    // Each with its own fence: a branch between fence and product would cost another.
    if (halves == 2)
      multiply_stage<T, 2>(s, left, right, k > 0);
    else
      multiply_stage<T, 1>(s, left, right, k > 0);
    if (k) {
      wgmma_wait<1>();
      ring.release(ring.before());
    }
    ring.next();
  }
  wgmma_wait<0>(s[0], s[1]);
  ring.release(ring.before());
}

template <class T, bool kKeep>
DEVICE void consume(const ForwardProblem& p, uint32_t shared, Ring<kStages> ring) {
  const int group = thread() / 128 - 1, lane = thread() % 32;
  const int column = group * kGroupWords + thread() / 32 % 4 * 16 + lane / 4;
#pragma unroll 1
  for (Work work(p); !work.done(); work.next()) {
    const Item item = work.item();
    const int tile = work.tile(item, cluster_rank()), length = work.length(item);
    Seen seen[2];
#pragma unroll 1
    for (int first = 0; first < length; first += kRegions) {
      float s[2][kHalf / 2];
      multiply<T>(s, shared, ring, p.dim, group, halves(length, first));
      attend<T, kKeep>(seen, reinterpret_cast<float (&)[kRegions / 8][4]>(s), p, item.image, tile, column, first,
                       length - first);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      seen[r].join_lanes(p);
      if (lane % 4 == 0) finish_word<kKeep>(p, item.image, tile, column + 8 * r, seen[r]);
    }
  }
}

template <class T, bool kKeep>
KERNEL LAUNCH_BOUNDS(kThreads, 1) void forward(const GRID_CONSTANT Problem problem) {
  const uint32_t shared = shared_base();
  const Ring<kStages> ring{shared + kBarriers};
  ring.make(kWarps);
  if (thread() < 128) {
    fewer_registers<40>();
    if (thread() == 0) fetch(problem, shared, ring);
  } else {
    more_registers<232>();
    consume<T, kKeep>(problem.p, shared, ring);
  }
}

}  // namespace rows90
}  // namespace gloria_cuda
