// Pooling of the word similarities of one text into its score, and the weight of each word in the gradient.
#pragma once

#include <cmath>

#include "../problem.h"

namespace gloria::GLORIA_ISA {

inline double maximum_of(const double* u, int64_t n) {
  double top = u[0];
  for (int64_t i = 1; i < n; ++i) top = u[i] > top || u[i] != u[i] ? u[i] : top;  // NaN wins
  return top;
}

// e^(word_scale (u - top)). In double: of similarities near zero the mean in the log leaves only digits that float32
// has not.
inline double pool_term(const Problem& problem, double u, double top) {
  return std::exp(problem.word_scale * (u - top));
}

inline float pool_score(const Problem& problem, const double* u, int64_t n) {
  double sum = 0.0;
  switch (problem.pool) {
    case Pool::kMax:
      return static_cast<float>(maximum_of(u, n));
    case Pool::kMean:
    case Pool::kSum:
      for (int64_t i = 0; i < n; ++i) sum += u[i];
      return static_cast<float>(problem.pool == Pool::kMean ? sum / static_cast<double>(n) : sum);
    case Pool::kLogSumExp:
      break;
  }
  const double top = maximum_of(u, n);
  for (int64_t i = 0; i < n; ++i) sum += pool_term(problem, u[i], top);
  if (problem.pool_mean) sum /= static_cast<double>(n);
  const double log_sum = std::log(sum) + problem.word_scale * top;
  return static_cast<float>(problem.pool_divide ? log_sum / problem.word_scale : log_sum);
}

// weights[i] = d score / d u[i]; words that share the maximum share its weight.
inline void pool_weights(const Problem& problem, const double* u, int64_t n, float* weights) {
  if (problem.pool == Pool::kMean || problem.pool == Pool::kSum) {
    for (int64_t i = 0; i < n; ++i) weights[i] = problem.pool == Pool::kMean ? 1.0f / static_cast<float>(n) : 1.0f;
    return;
  }
  const double top = maximum_of(u, n);
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = static_cast<float>(problem.pool == Pool::kMax ? u[i] == top : pool_term(problem, u[i], top));
    sum += weights[i];
  }
  const double scale = (problem.pool == Pool::kMax || problem.pool_divide ? 1.0 : problem.word_scale) / sum;
  for (int64_t i = 0; i < n; ++i) weights[i] = static_cast<float>(weights[i] * scale);
}

}  // namespace gloria::GLORIA_ISA
