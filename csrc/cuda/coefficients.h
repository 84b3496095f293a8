// What a word's similarity passes to its affinities: from the gradient of the scores to factors of each word and image.
// A warp for each image and text.
#pragma once

#include "pool.h"

namespace gloria_cuda {

// gradient of the score with respect to a word's similarity u
struct PoolGradient {
  const PoolProblem& p;
  float top, sum;  // largest u; sum of exponentials, or how many words are the largest
  int length;

  DEVICE PoolGradient(const PoolProblem& p, const float* u, int length) : p(p), sum(0), length(length) {
    const int lane = thread() % 32;
    top = -as_float(0x7f800000u);
    for (int word = lane; word < length; word += 32) top = u[word] > top || u[word] != u[word] ? u[word] : top;
    top = warp_max(top);
    for (int word = lane; word < length; word += 32) sum += term(u[word]);
    sum = warp_sum(sum);
  }
  DEVICE float of(float u) const {
    if (p.pool == Pool::kSum) return 1;
    if (p.pool == Pool::kMean) return 1 / static_cast<float>(length);
    return term(u) / sum * (p.pool == Pool::kMax || p.divide ? 1.f : p.scale);
  }

 private:
  DEVICE float term(float u) const {
    if (p.pool == Pool::kMax) return u == top || top != top ? u * 0 + 1 : 0.f;
    return expf((u - top) * p.scale);
  }
};

KERNEL LAUNCH_BOUNDS(kPoolThreads, 4) void word_coefficients(const GRID_CONSTANT CoefficientProblem p) {
  const PoolProblem& pool = p.pool;
  const int64_t count = static_cast<int64_t>(pool.images) * pool.texts, plane = pool.images * p.kept.pitch;
  const int first = p.kept.first_tile * kWords, end = first + p.tiles * kWords;
  for (int64_t pair = static_cast<int64_t>(block()) * (kPoolThreads / 32) + thread() / 32; pair < count;
       pair += static_cast<int64_t>(blocks()) * (kPoolThreads / 32)) {
    const int text = static_cast<int>(pair % pool.texts), length = static_cast<int>(pool.lengths[text]);
    const int image = static_cast<int>(pair / pool.texts), column = pool.columns[text];
    if (column < first || column >= end) continue;
    const float* u = pool.similarities + image * pool.width + column;
    const PoolGradient gradient(pool, u, length);
    const int64_t at = image * p.kept.pitch + column - first;
    const float unscale = p.unscale[image];
    for (int word = thread() % 32; word < length; word += 32) {
      const float* statistics = p.kept.statistics + at + word;
      float* to = p.coefficients + at + word;
      const float gu = p.grad_scores[pair] * gradient.of(u[word]), t = p.word_norms[column + word];
      const float inverse = 1 / statistics[kExponentials * plane];
      float gd = gu, of_square = 0;  // the latter times r^2, as G is
      if (p.cosine) {
        const float n = statistics[kContextNorm * plane];
        const bool floor = n * t < 1e-8f;
        gd = gu / (floor ? 1e-8f : n * t);
        if (!floor) {
          of_square = -gu * u[word] * (unscale / n) * (unscale / n);
          to[kOfProduct * plane] = p.attention_scale * of_square * inverse;
          to[kOfGram * plane] = of_square * inverse * inverse;
          to[kOfWord * plane] = -gu * u[word] / t / t;
        }
      }
      to[kOfAffinity * plane] = gd * inverse;
      // No |s - its mean| is above 2 |t| / r, no difference of r^2 G a above 2, and the norm over words may double
      // both.
      to[kBound * plane] = fabsf(gd) + 4 * p.attention_scale * (fabsf(gd) * t * unscale + fabsf(of_square));
    }
  }
}

}  // namespace gloria_cuda
