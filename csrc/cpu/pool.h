// Pooling of the word similarities of one text into its score, and its derivatives.
#pragma once

#include <cmath>

#include "../problem.h"

namespace gloria::GLORIA_ISA {

// The similarities of the words of one text, and their weights.
struct Words {
  const double* u;
  int64_t n;
  const float* weights;  // null: 1
  double weight(int64_t i) const { return weights ? weights[i] : 1.0; }
  double count() const {
    if (!weights) return static_cast<double>(n);
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += weights[i];
    return sum;
  }
  double top() const {
    double top = u[0];
    for (int64_t i = 1; i < n; ++i) top = u[i] > top || u[i] != u[i] ? u[i] : top;  // NaN wins
    return top;
  }
};

inline Words words_of(const Problem& problem, int64_t text, const double* u) {
  return {u, problem.texts.lengths[text],
          problem.word_weights ? problem.word_weights + problem.texts.starts[text] : nullptr};
}

// e^(word_scale (u - top)). In double: of similarities near zero the mean in the log leaves only digits that float32
// has not.
inline double pool_term(const Problem& problem, double u, double top) {
  return std::exp(problem.word_scale * (u - top));
}

inline double pool_score(const Problem& problem, const Words& words) {
  double sum = 0.0, terms = 0.0;
  switch (problem.pool) {
    case Pool::kMax:
      return words.top();
    case Pool::kMean:
    case Pool::kSum:
      for (int64_t i = 0; i < words.n; ++i) sum += words.weight(i) * words.u[i];
      return problem.pool == Pool::kMean ? sum / words.count() : sum;
    case Pool::kLogSumExp:
    case Pool::kSoftmax:
      break;
  }
  const double top = words.top();
  for (int64_t i = 0; i < words.n; ++i) {
    const double term = words.weight(i) * pool_term(problem, words.u[i], top);
    terms += term;
    sum += term * words.u[i];
  }
  if (problem.pool == Pool::kSoftmax) return sum / terms;
  if (problem.pool_mean) terms /= words.count();
  const double log_sum = std::log(terms) + problem.word_scale * top;
  return problem.pool_divide ? log_sum / problem.word_scale : log_sum;
}

inline bool gradient_reads_similarities(const Problem& problem) {
  return problem.word_weights || !(problem.pool == Pool::kMean || problem.pool == Pool::kSum);
}

// of_u[i] = dZ / du[i], where words that share the maximum share its weight, and, where it is asked for, of_weights[i]
// = dZ / dw[i]. Returns dZ / d word_scale.
inline double pool_gradient(const Problem& problem, const Words& words, float* of_u, double* of_weights) {
  const double z = pool_score(problem, words), top = words.top();
  if (problem.pool == Pool::kMean || problem.pool == Pool::kSum) {
    const double count = problem.pool == Pool::kMean ? words.count() : 1.0;
    for (int64_t i = 0; i < words.n; ++i) {
      of_u[i] = static_cast<float>(words.weight(i) / count);
      if (of_weights) of_weights[i] = problem.pool == Pool::kMean ? (words.u[i] - z) / count : words.u[i];
    }
    return 0.0;
  }
  double sum = 0.0;
  for (int64_t i = 0; i < words.n; ++i) {
    of_u[i] = static_cast<float>(problem.pool == Pool::kMax ? words.u[i] == top
                                                            : words.weight(i) * pool_term(problem, words.u[i], top));
    sum += of_u[i];
  }
  const double scale = problem.word_scale, divisor = problem.pool_divide ? scale : 1.0;
  double mean = 0.0, variance = 0.0;
  for (int64_t i = 0; i < words.n; ++i) {
    const double share = of_u[i] / sum, above = words.u[i] - z;
    mean += share * words.u[i];
    variance += share * above * above;
    if (of_weights) {
      const double term = pool_term(problem, words.u[i], top) / sum;
      of_weights[i] = problem.pool == Pool::kSoftmax
                          ? term * above
                          : (term - (problem.pool_mean ? 1.0 / words.count() : 0.0)) / divisor;
    }
    of_u[i] = static_cast<float>(problem.pool == Pool::kMax       ? share
                                 : problem.pool == Pool::kSoftmax ? share * (1.0 + scale * above)
                                                                  : share * scale / divisor);
  }
  return problem.pool == Pool::kMax       ? 0.0
         : problem.pool == Pool::kSoftmax ? variance
         : problem.pool_divide            ? (mean - z) / scale
                                          : mean;
}

}  // namespace gloria::GLORIA_ISA
