// The score of one image with one text and its gradients in double, straight from the formulas: contexts are formed,
// nothing is fused.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "problem.h"

namespace oracle {

struct Matrix {
  int64_t rows, columns;
  std::vector<double> values = std::vector<double>(rows * columns);
  double* operator[](int64_t row) { return values.data() + row * columns; }
  const double* operator[](int64_t row) const { return values.data() + row * columns; }
};

inline double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}
inline void add(double scale, const double* from, int64_t n, double* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += scale * from[i];
}

constexpr double kCosineEpsilon = 1e-8, kNormEpsilon = 1e-8, kLeak = 0.1;

// One column (the words of a text, with one region) through the word norm.
inline std::vector<double> word_norm(gloria::WordNorm norm, const std::vector<double>& s) {
  std::vector<double> x = s;
  double total = 0;
  if (norm == gloria::WordNorm::kSoftmax) {
    const double top = *std::max_element(s.begin(), s.end());
    for (double& value : x) total += value = std::exp(value - top);
    for (double& value : x) value /= total;
  }
  if (norm == gloria::WordNorm::kClippedL2) {
    for (double& value : x) value *= value > 0 ? 1 : kLeak, total += value * value;
    for (double& value : x) value /= std::sqrt(total) + kNormEpsilon;
  }
  return x;
}

// dL/ds of one column from dL/dx.
inline std::vector<double> word_norm_gradient(gloria::WordNorm norm, const std::vector<double>& s,
                                              const std::vector<double>& dx) {
  const int64_t n = static_cast<int64_t>(s.size());
  const std::vector<double> x = word_norm(norm, s);
  const double along = dot(x.data(), dx.data(), n);
  std::vector<double> ds = dx;
  if (norm == gloria::WordNorm::kSoftmax)
    for (int64_t i = 0; i < n; ++i) ds[i] = x[i] * (dx[i] - along);
  if (norm == gloria::WordNorm::kClippedL2) {
    double square = 0;
    for (const double value : s) square += std::pow(value > 0 ? value : kLeak * value, 2);
    // x = y / (|y| + eps): dy = (dx - <x, dx> y / |y|) / (|y| + eps)
    const double length = std::sqrt(square), scaled = length + kNormEpsilon;
    for (int64_t i = 0; i < n; ++i) {
      const double y = s[i] > 0 ? s[i] : kLeak * s[i];
      ds[i] = (dx[i] - along * y / length) / scaled * (s[i] > 0 ? 1 : kLeak);
    }
  }
  return ds;
}

// One row (a word, with the regions) as attention, which sums to 1.
inline std::vector<double> attention(double scale, const std::vector<double>& x) {
  const double top = *std::max_element(x.begin(), x.end());
  std::vector<double> a(x.size());
  double total = 0;
  for (size_t j = 0; j < x.size(); ++j)
    total += a[j] = std::isinf(scale) ? x[j] == top : std::exp(scale * (x[j] - top));
  for (double& value : a) value /= total;
  return a;
}

// Z, and weights[i] = dZ / du[i].
inline double pool(const gloria::Problem& knobs, const std::vector<double>& u, std::vector<double>& weights) {
  const double n = static_cast<double>(u.size()), top = *std::max_element(u.begin(), u.end());
  double total = 0, sum = 0;
  for (size_t i = 0; i < u.size(); ++i) {
    const bool exponential = knobs.pool == gloria::Pool::kLogSumExp || knobs.pool == gloria::Pool::kSoftmax;
    weights[i] = exponential                        ? std::exp(knobs.word_scale * (u[i] - top))
                 : knobs.pool == gloria::Pool::kMax ? u[i] == top
                                                    : 1;
    total += weights[i];
    sum += u[i];
  }
  const double divisor = knobs.pool_divide ? knobs.word_scale : 1;
  for (double& weight : weights)
    weight *= knobs.pool == gloria::Pool::kSum         ? 1
              : knobs.pool == gloria::Pool::kLogSumExp ? knobs.word_scale / divisor / total
                                                       : 1 / total;
  const double mean = dot(weights.data(), u.data(), static_cast<int64_t>(u.size()));
  switch (knobs.pool) {
    case gloria::Pool::kSoftmax:
      for (size_t i = 0; i < u.size(); ++i) weights[i] *= 1 + knobs.word_scale * (u[i] - mean);
      return mean;
    case gloria::Pool::kMax:
      return top;
    case gloria::Pool::kMean:
      return sum / n;
    case gloria::Pool::kSum:
      return sum;
    case gloria::Pool::kLogSumExp:
      break;
  }
  return (std::log(knobs.pool_mean ? total / n : total) + knobs.word_scale * top) / divisor;
}

struct Score {
  double z;
  double lead;  // of the best word similarity over the next; under a maximum with no lead, two gradients are right
};

// Z of regions V and words T; adds upstream * dZ/dV and upstream * dZ/dT to the gradients.
inline Score score(const gloria::Problem& knobs, const Matrix& V, const Matrix& T, double upstream, Matrix& dV,
                   Matrix& dT) {
  const int64_t M = V.rows, W = T.rows, D = V.columns;
  // Affinities and what becomes of them: by column (region) for the norm, by row (word) for the attention.
  std::vector<std::vector<double>> s(M, std::vector<double>(W)), x(W, std::vector<double>(M)), a(W),
      dx(M, std::vector<double>(W));
  for (int64_t j = 0; j < M; ++j) {
    for (int64_t i = 0; i < W; ++i) s[j][i] = dot(T[i], V[j], D);
    const std::vector<double> column = word_norm(knobs.word_norm, s[j]);
    for (int64_t i = 0; i < W; ++i) x[i][j] = column[i];
  }
  Matrix contexts{W, D};
  std::vector<double> u(W), context_norm(W), norm(W), weights(W);
  for (int64_t i = 0; i < W; ++i) {
    a[i] = attention(knobs.attention_scale, x[i]);
    for (int64_t j = 0; j < M; ++j) add(a[i][j], V[j], D, contexts[i]);
    context_norm[i] = std::sqrt(dot(contexts[i], contexts[i], D));
    norm[i] = std::sqrt(dot(T[i], T[i], D));
    u[i] = dot(contexts[i], T[i], D) / (knobs.cosine ? std::max(context_norm[i] * norm[i], kCosineEpsilon) : 1);
    if (knobs.smooth_max) {
      const double top = *std::max_element(x[i].begin(), x[i].end());
      double total = 0;
      for (const double s_ij : x[i]) total += std::exp(knobs.attention_scale * (s_ij - top));
      u[i] = top + std::log(total) / knobs.attention_scale;
    }
  }
  const double z = pool(knobs, u, weights);

  for (int64_t i = 0; i < W; ++i) {
    const double du = upstream * weights[i];
    std::vector<double> dc(D), da(M);
    if (!knobs.cosine) {
      add(du, T[i], D, dc.data());
      add(du, contexts[i], D, dT[i]);
    } else {
      const double both = std::max(context_norm[i] * norm[i], kCosineEpsilon), free = both > kCosineEpsilon;
      add(du / both, T[i], D, dc.data());
      add(du / both, contexts[i], D, dT[i]);
      add(-free * du * u[i] / std::max(context_norm[i] * context_norm[i], 1e-300), contexts[i], D, dc.data());
      add(-free * du * u[i] / std::max(norm[i] * norm[i], 1e-300), T[i], D, dT[i]);
    }
    for (int64_t j = 0; j < M; ++j) {
      da[j] = dot(dc.data(), V[j], D);
      add(a[i][j], dc.data(), D, dV[j]);
    }
    const double mean = dot(a[i].data(), da.data(), M);
    for (int64_t j = 0; j < M; ++j)
      dx[j][i] =
          knobs.smooth_max || std::isinf(knobs.attention_scale) ? 0 : knobs.attention_scale * a[i][j] * (da[j] - mean);
  }
  for (int64_t j = 0; j < M; ++j) {
    const std::vector<double> ds = word_norm_gradient(knobs.word_norm, s[j], dx[j]);
    for (int64_t i = 0; i < W; ++i) {
      add(ds[i], V[j], D, dT[i]);
      add(ds[i], T[i], D, dV[j]);
    }
  }
  if (W == 1) return {z, std::abs(u[0])};
  std::nth_element(u.begin(), u.begin() + 1, u.end(), std::greater<>());
  return {z, u[0] - u[1]};
}

}  // namespace oracle
