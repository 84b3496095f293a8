// Word similarities become scores: a warp for each image and text.
#pragma once

#include "problem.h"
#include "ptx.h"

namespace gloria_cuda {

using namespace gpu;

constexpr int kPoolThreads = 256;

DEVICE float warp_max(float x) {
  for (int mask = 16; mask; mask /= 2) {
    const float other = shuffle_xor(x, mask);
    x = other > x || other != other ? other : x;  // NaN wins, as in torch
  }
  return x;
}
DEVICE float warp_sum(float x) {
  for (int mask = 16; mask; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

KERNEL LAUNCH_BOUNDS(kPoolThreads, 4) void pool_words(const GRID_CONSTANT PoolProblem p) {
  const int lane = thread() % 32;
  const int64_t count = static_cast<int64_t>(p.images) * p.texts;
  for (int64_t pair = static_cast<int64_t>(block()) * (kPoolThreads / 32) + thread() / 32; pair < count;
       pair += static_cast<int64_t>(blocks()) * (kPoolThreads / 32)) {
    const int text = static_cast<int>(pair % p.texts), length = static_cast<int>(p.lengths[text]);
    const float* u = p.similarities + pair / p.texts * p.width + p.columns[text];
    if (p.columns[text] < 0) {
      if (lane == 0) p.scores[pair] = as_float(0x7fc00000u);
      continue;
    }
    float top = -as_float(0x7f800000u), sum = 0;
    for (int word = lane; word < length; word += 32) {
      top = u[word] > top || u[word] != u[word] ? u[word] : top;
      sum += u[word];
    }
    float score;
    if (p.pool == Pool::kMax) {
      score = warp_max(top);
    } else if (p.pool == Pool::kLogSumExp) {
      top = warp_max(top) * p.scale;
      float terms = 0;
      for (int word = lane; word < length; word += 32) terms += expf(u[word] * p.scale - top);
      score = logf(warp_sum(terms) / (p.mean ? static_cast<float>(length) : 1.f)) + top;
      if (p.divide) score /= p.scale;
    } else {
      score = warp_sum(sum) / (p.pool == Pool::kMean ? static_cast<float>(length) : 1.f);
    }
    if (lane == 0) p.scores[pair] = score;
  }
}

}  // namespace gloria_cuda
