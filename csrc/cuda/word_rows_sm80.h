// Similarities of words that nothing is normalized over, on sm_80 and later (see word_rows.h): two tiles of words and
// 128 regions at a time, fed by cp.async.
#pragma once

#include "warp_products.h"
#include "word_rows.h"

namespace gloria_cuda {
namespace rows80 {

using namespace warp_products;

constexpr int kThreads = 256, kLeft = 2 * kWords, kStages = 3;
constexpr int kAcross = kRows / kSide;  // warps that share words
constexpr uint32_t kStage = (kLeft + kRows) * kRow;
constexpr uint32_t kPartials = kStages * kStage;  // of each word and each of the warps that share it
constexpr uint32_t kShared = kPartials + kAcross * kLeft * 16;
static_assert(kThreads == kLeft && kThreads / 32 == kLeft / kSide * kAcross && kShared <= 163 << 10);

struct Work : WordWork {
  DEVICE Work(const ForwardProblem& p) : WordWork{p, block()} {}
  DEVICE void next() { number += blocks(); }
};

// Copies the operands of one step after the other, over the borders of items. Addresses are made once a pass and only
// move from there: made for each copy they would take more issue slots than the products.
struct Loader {
  static constexpr int kAtOnce = kThreads / 8;  // rows, eight threads each

  Work work;
  uint32_t shared;
  int first = 0, left = 0;  // region of the pass; steps of it
  const uint16_t* from[3];  // two tiles of words, and regions

  DEVICE Loader(const ForwardProblem& p, uint32_t shared)
      : work(p), shared(place(shared, thread() / 8, thread() % 8)) {}

  DEVICE void next(int slot) {
    if (!work.done()) {
      const ForwardProblem& p = work.p;
      if (!left) begin();
      const uint32_t to = shared + slot * kStage;
#pragma unroll
      for (int operand = 0; operand < 3; ++operand) {
#pragma unroll
        for (int i = 0; i < kWords / kAtOnce; ++i)
          copy_async(to + (operand * kWords + i * kAtOnce) * kRow, from[operand] + i * kAtOnce * p.dim);
        from[operand] += kDepth;
      }
      if (!--left && (first += kRows) >= work.length(work.item())) first = 0, work.next();
    }
    commit_copies();
  }

 private:
  DEVICE void begin() {
    const ForwardProblem& p = work.p;
    const Item item = work.item();
    const int row = thread() / 8, chunk = thread() % 8 * 8;
    left = p.dim / kDepth;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      from[i] = p.words + (static_cast<int64_t>(work.tile(item, i)) * kWords + row) * p.dim + chunk;
    from[2] = p.regions + (static_cast<int64_t>(item.image) * p.side + first + row) * p.dim + chunk;
  }
};
static_assert(kWords == kRows);

template <class T, bool kKeep>
KERNEL LAUNCH_BOUNDS(kThreads, 1) void forward(const GRID_CONSTANT ForwardProblem p) {
  const uint32_t shared = shared_base();
  const int warp = thread() / 32, lane = thread() % 32;
  const int word = warp / kAcross * kSide, region = warp % kAcross * kSide;
  auto partial = [&](int of_word, int across) { return shared + kPartials + (across * kLeft + of_word) * 16; };
  Loader loader(p, shared);
  int slot = 0;
  for (int i = 0; i < kStages - 1; ++i) loader.next(i);
#pragma unroll 1
  for (Work work(p); !work.done(); work.next()) {
    const Item item = work.item();
    const int length = work.length(item);
    Seen seen[kM][2];
#pragma unroll 1
    for (int first = 0; first < length; first += kRows) {
      Sums s = {};
#pragma unroll 1
      for (int k = 0; k < p.dim; k += kDepth) {
        wait_copies<kStages - 2>();
        sync_block();
        loader.next(slot == 0 ? kStages - 1 : slot - 1);
        const uint32_t stage = shared + slot * kStage;
        multiply<T>(s, stage + word * kRow, stage + (kLeft + region) * kRow);
        slot = slot + 1 == kStages ? 0 : slot + 1;
      }
#pragma unroll
      for (int m = 0; m < kM; ++m)
        attend<T, kKeep>(seen[m], s[m], p, item.image, work.tile(item, word / kWords),
                         word % kWords + m * 16 + lane / 4, first + region, length - first - region);
    }
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      Seen& own = seen[i / 2][i % 2];
      own.join_lanes(p);
      if (lane % 4 == 0)
        store_shared(partial(word + i * 8 + lane / 4, warp % kAcross), float4{own.top, own.sum, own.weighted, 0});
    }
    sync_block();
    Seen all;
#pragma unroll
    for (int i = 0; i < kAcross; ++i) {
      const float4 part = load_shared<float4>(partial(thread(), i));
      all.join({part.x, part.y, part.z}, p);
    }
    finish_word<kKeep>(p, item.image, work.tile(item, thread() / kWords), thread() % kWords, all);
  }
  wait_copies<0>();
}

}  // namespace rows80
}  // namespace gloria_cuda
