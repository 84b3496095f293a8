// Pooling of the word similarities of one text into its score, and the weight of each word in the gradient.
#pragma once

#include <cmath>

#include "../problem.h"

namespace gloria::GLORIA_ISA {

inline float maximum_of(const float* u, int64_t n) {
  float top = u[0];
  for (int64_t i = 1; i < n; ++i) top = u[i] > top || u[i] != u[i] ? u[i] : top;  // NaN wins
  return top;
}

inline float pool_score(const Problem& problem, const float* u, int64_t n) {
  float sum = 0.0f;
  switch (problem.pool) {
    case Pool::kMax:
      return maximum_of(u, n);
    case Pool::kMean:
    case Pool::kSum:
      for (int64_t i = 0; i < n; ++i) sum += u[i];
      return problem.pool == Pool::kMean ? sum / static_cast<float>(n) : sum;
    case Pool::kLogSumExp:
      break;
  }
  const float top = maximum_of(u, n);
  for (int64_t i = 0; i < n; ++i) sum += std::exp(problem.word_scale * (u[i] - top));
  if (problem.pool_mean) sum /= static_cast<float>(n);
  const float log_sum = std::log(sum) + problem.word_scale * top;
  return problem.pool_divide ? log_sum / problem.word_scale : log_sum;
}

// weights[i] = d score / d u[i]; words that share the maximum share its weight.
inline void pool_weights(const Problem& problem, const float* u, int64_t n, float* weights) {
  if (problem.pool == Pool::kMean || problem.pool == Pool::kSum) {
    for (int64_t i = 0; i < n; ++i) weights[i] = problem.pool == Pool::kMean ? 1.0f / static_cast<float>(n) : 1.0f;
    return;
  }
  const float top = maximum_of(u, n);
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = problem.pool == Pool::kMax ? static_cast<float>(u[i] == top) : std::exp(problem.word_scale * (u[i] - top));
    sum += weights[i];
  }
  const float scale = (problem.pool == Pool::kMax || problem.pool_divide ? 1.0f : problem.word_scale) / sum;
  for (int64_t i = 0; i < n; ++i) weights[i] *= scale;
}

}  // namespace gloria::GLORIA_ISA
