// Words whose attention is flat: <c, t> from the mean of the regions and what the attention differs from a flat one.
//
// sum e s of regions that cancel errs as |s| does. Where e is constant, the context is the mean of the regions, which
// rounding leaves as small as it is. With n regions and any number f,
//
//     sum e s = f n <mean v, t> + sum (e - f) s,
//
// and with f = sum e / n the last sum is of small numbers where the attention is flat. So it is with the gradients,
// where sum e v takes the place of sum e s. The attention's gradient keeps its own mean of s, of which one region's s
// is exactly nothing away. Whether a word goes this way depends on itself and its image alone.
#pragma once

#include <cmath>

#include "attention.h"
#include "direct.h"
#include "pack.h"

namespace gloria::GLORIA_ISA {

// A thread's mean of the regions of an image, found for the first word that asks.
struct MeanRegion {
  int64_t* held = nullptr;  // the image whose mean it is, or -1
  double* mean;             // [width]

  MeanRegion(Arena& arena, const Problem& problem) {
    if (problem.cosine || is_hard(problem)) return;
    held = arena.take<int64_t>(1);
    mean = arena.take<double>(panels_of(problem.dim) * kPanel);
    if (held) *held = -1;
  }

  template <class Operand>
  const double* of(const Problem& problem, int64_t image) const {
    if (*held == image) return mean;
    const int64_t regions = problem.images.lengths[image];
    std::memset(mean, 0, problem.dim * 8);
    with_typed<Operand>(problem.dtype, problem.images.rows, [&](const auto* rows) {
      rows += problem.images.starts[image] * problem.dim;
      for (int64_t j = 0; j < regions; ++j, rows += problem.dim)
        for (int64_t d = 0; d < problem.dim; ++d) mean[d] += widen(rows[d]);
    });
    for (int64_t d = 0; d < problem.dim; ++d) mean[d] /= static_cast<double>(regions);
    *held = image;
    return mean;
  }
};

// Whether the attention, whose sum is `sum`, may be flat. Its greatest e is 1, unless it is bounded without a maximum:
// then nobody knows. An infinite or NaN `dot` stays as it is.
inline bool may_be_flat(const Problem& problem, double sum, double dot, int64_t regions) {
  return std::isfinite(dot) && (is_bounded(problem) || sum > 0.9 * static_cast<double>(regions));
}

// Whether no e of the word in row `r` of the worker's bin is far from their mean: of a small e, which a large region
// may make count, the difference would be a large number.
template <class Operand>
inline bool is_flat(const Worker<Operand>& w, int64_t r, float level) {
  Vec far = {};
  for (int64_t p = 0; p < w.shape.panels; ++p)
    for (int part = 0; part < kParts; ++part) {
      const Vec away = load(w.scratch.attention + (p * w.bin->rows + r) * kPanel + part * kLanes) - level;
      const IVec there = lanes_below(w.shape.regions - p * kPanel - part * kLanes);
      far = maximum(far, select(there, maximum(away, -away)));
    }
  for (int i = 0; i < kLanes; ++i)
    if (far[i] > 0.5f * level) return false;
  return true;
}

// sum e s of the word in row `r` of the worker's bin, whose `level` is known.
template <class Operand>
inline double flat_dot(const Worker<Operand>& w, int64_t r) {
  const Problem& problem = w.problem;
  const double regions = static_cast<double>(w.shape.regions);
  const float level = w.scratch.sums[r].level;
  Vec rest[kParts] = {};  // lanes beyond the last region have s = 0
  for (int64_t p = 0; p < w.shape.panels; ++p)
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = (p * w.bin->rows + r) * kPanel + part * kLanes;
      rest[part] += (load(w.scratch.attention + at) - level) * load(w.scratch.affinity + at);
    }
  alignas(64) float lanes[kPanel];
  for (int part = 0; part < kParts; ++part) store(lanes + part * kLanes, rest[part]);
  const double* mean = w.scratch.mean.template of<Operand>(problem, w.index);
  alignas(32) double dot[kPanel] = {};
  with_word<Operand>(problem, *w.bin, r, [&](const auto* word) {
    for (int64_t d = 0; d < problem.dim; d += kPanel)
      for (int64_t k = 0; k < kPanel && d + k < problem.dim; ++k) dot[k] += mean[d + k] * widen(word[d + k]);
  });
  return level * regions * lane_sum(dot) + lane_sum(lanes);
}

// What a flat word's ds leaves out: all regions get the same, sum[d] += alpha level t[d].
template <class Operand>
inline void add_level_of_words(const Worker<Operand>& w, const WordGradient* terms, double* sum) {
  for_words<Operand>(w.problem, *w.bin, [&](const auto* word, int64_t r) {
    const double weight = static_cast<double>(terms[r].alpha) * terms[r].level;
    if (weight == 0.0) return;
    for (int64_t d = 0; d < w.problem.dim; ++d) sum[d] += weight * widen(word[d]);
  });
}

// And the word gets alpha level (sum v), in the C form of the bin.
template <class Operand>
inline void add_level_of_regions(const Worker<Operand>& w, const WordGradient* terms, float* grad) {
  for (int64_t r = 0; r < w.bin->used; ++r) {
    const double weight = static_cast<double>(terms[r].alpha) * terms[r].level * static_cast<double>(w.shape.regions);
    if (weight == 0.0) continue;
    const double* mean = w.scratch.mean.template of<Operand>(w.problem, w.index);
    for (int64_t d = 0; d < w.problem.dim; ++d)
      grad[(d / kPanel * w.bin->rows + r) * kPanel + d % kPanel] += static_cast<float>(weight * mean[d]);
  }
}

}  // namespace gloria::GLORIA_ISA
