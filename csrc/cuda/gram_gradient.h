// The gradient of each image's Gram matrix, sum over words of w a a^T, by its blocks of 128 x 128 on and below the
// diagonal: a third of the products of an image of three is saved, and the attention is weighted on its way into them,
// so that it is read once and not written twice. Blocks are added to float32 sums, each by one block of threads alone.
//
// Limits, on an A100: a step is 1,024 clocks of the matrix units, 768 of shared memory and 700 of the second-level
// cache (a diagonal block reads half of that). Two blocks of threads share a multiprocessor: one copies while one
// multiplies.
#pragma once

#include "problem.h"
#include "warp_products.h"

namespace gloria_cuda {
namespace gram80 {

using namespace warp_products;

constexpr int kThreads = 128, kStages = 2, kAcross = kRows / kSide;
constexpr uint32_t kOperand = kRows * kRow, kWeights = 2 * kOperand, kStage = kWeights + kRow,
                   kShared = kStages * kStage;
static_assert(kThreads / 32 == kAcross * kAcross && 2 * kShared <= 163 << 10 && kThreads / 8 == kKeptRows);
// A block's first step is then never in the stage that the block before it read last.
static_assert(kWords / kDepth % kStages == 0);

// A block of an image's matrix.
struct Square {
  int image, down, across;
};
DEVICE Square square_of(int item, int blocks_of_image) {
  Square found{item / blocks_of_image, 0, item % blocks_of_image};
  while (found.across > found.down) found.across -= ++found.down;
  return found;
}

struct Loader {
  static constexpr int kAtOnce = kKeptRows;  // eight threads each

  const GramGradientProblem& p;
  const Square& at;
  const uint16_t *left, *right, *weights;  // right: null where it is the left

  DEVICE Loader(const GramGradientProblem& p, const Square& at) : p(p), at(at) {
    const int64_t first = static_cast<int64_t>(at.image) * p.height + thread() / 8, pitch = p.pitch;
    const uint16_t* from = p.attention + first * pitch + thread() % 8 * 8;
    left = from + at.down * kRows * pitch;
    right = at.down == at.across ? nullptr : from + at.across * kRows * pitch;
    weights = p.weights + at.image * pitch + thread() % 8 * 8;
  }
  DEVICE void next(uint32_t stage) {
    const uint32_t to = place(stage, thread() / 8, thread() % 8);
    copy(to, left, at.down), left += kDepth;
    if (right) copy(to + kOperand, right, at.across), right += kDepth;
    if (thread() < 8) copy_async(stage + kWeights + thread() * 16, weights);
    weights += kDepth;
  }

 private:
  // In the place of rows that an image does not have, the last that it has once more.
  DEVICE void copy(uint32_t to, const uint16_t* from, int block) const {
    const int last = p.height - kAtOnce - block * kRows;
#pragma unroll
    for (int row = 0; row < kRows; row += kAtOnce) {
      copy_async(to + row * kRow, from);
      if (row < last) from += kAtOnce * p.pitch;
    }
  }
};

KERNEL LAUNCH_BOUNDS(kThreads, 2) void gram_gradient(const GRID_CONSTANT GramGradientProblem p) {
  const uint32_t shared = shared_base();
  const int warp = thread() / 32, lane = thread() % 32;
  const int row = warp / kAcross * kSide, column = warp % kAcross * kSide;
  const int blocks_down = (p.height + kRows - 1) / kRows, blocks_of_image = blocks_down * (blocks_down + 1) / 2;
  const int steps = static_cast<int>(p.pitch / kDepth);
#pragma unroll 1
  for (int item = block(); item < p.images * blocks_of_image; item += blocks()) {
    const Square at = square_of(item, blocks_of_image);
    const uint32_t right = at.down == at.across ? 0 : kOperand;
    Loader loader(p, at);
    Sums s = {};
    loader.next(shared);
    commit_copies();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      wait_copies<0>();
      sync_block();
      const uint32_t stage = shared + step % kStages * kStage;
      if (step + 1 < steps) loader.next(shared + (step + 1) % kStages * kStage);
      commit_copies();
      multiply<Float16>(s, stage + row * kRow, stage + right + column * kRow, [&](int k16, uint32_t (&a)[kM][4]) {
        const uint32_t weights = stage + kWeights + k16 * 32 + lane % 4 * 4;
        const uint32_t w[2] = {load_shared<uint32_t>(weights), load_shared<uint32_t>(weights + 16)};
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int i = 0; i < 4; ++i) a[m][i] = product_of_halves(a[m][i], w[i / 2]);
      });
    }
    const float factor = p.factors[at.image];
    const int64_t first = static_cast<int64_t>(at.image) * p.side + at.down * kRows + row + lane / 4;
    float* to = p.sums + first * p.side + at.across * kRows + column + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          float2* pair = reinterpret_cast<float2*>(to + static_cast<int64_t>(m * 16 + r * 8) * p.side + n * 8);
          const float2 old = *pair;
          *pair = {fmaf(s[m][n][2 * r], factor, old.x), fmaf(s[m][n][2 * r + 1], factor, old.y)};
        }
  }
}

}  // namespace gram80
}  // namespace gloria_cuda
