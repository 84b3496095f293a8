// One bin of texts with one image: the affinities, the attention and the word similarities.
#pragma once

#include "pool.h"
#include "worker.h"

namespace gloria::GLORIA_ISA {

// out[r] = sum over the panels of a * b, lane by lane, eight rows at a time in registers.
inline void row_products(const float* a, const float* b, int64_t rows, int64_t panels, float* out) {
  for (int64_t i = 0; i < rows * kPanel; i += 8 * kLanes) {
    Vec sum[8] = {};
    for (int64_t p = 0; p < panels; ++p)
      for (int j = 0; j < 8; ++j) {
        const int64_t at = p * rows * kPanel + i + j * kLanes;
        sum[j] += load(a + at) * load(b + at);
      }
    for (int j = 0; j < 8; ++j) store(out + i + j * kLanes, sum[j]);
  }
}

// Beside e h, whose sum is the square of the context less what the center adds: e^2 |v|^2 and, with `pulls`, e <center,
// v>, by the same lanes.
template <bool pulls>
inline void gram_products(const float* e, const float* h, const float* squares, const float* pull, int64_t rows,
                          int64_t panels, float* square_sums, float* bound_sums, float* pull_sums) {
  constexpr int kTogether = kLanes == 16 ? 8 : 4;  // registers a sum; rows of a bin are a multiple of 16
  for (int64_t i = 0; i < rows * kPanel; i += kTogether * kLanes) {
    Vec sum[kTogether] = {}, bound[kTogether] = {}, pulled[kTogether] = {};
    for (int64_t p = 0; p < panels; ++p)
      for (int j = 0; j < kTogether; ++j) {
        const int64_t at = p * rows * kPanel + i + j * kLanes, lanes = p * kPanel + j % kParts * kLanes;
        const Vec ev = load(e + at);
        sum[j] += ev * load(h + at);
        bound[j] += ev * ev * load(squares + lanes);
        if constexpr (pulls) pulled[j] += ev * load(pull + lanes);
      }
    for (int j = 0; j < kTogether; ++j) {
      store(square_sums + i + j * kLanes, sum[j]);
      store(bound_sums + i + j * kLanes, bound[j]);
      store(pull_sums + i + j * kLanes, pulled[j]);
    }
  }
}

// Rows that hold no word are inner dimension of the gradients' products: they must be zeros there.
inline void clear_padding(float* c_form, const Bin& bin, int64_t panels) {
  for (int64_t p = 0; p < panels; ++p)
    std::memset(c_form + (p * bin.rows + bin.used) * kPanel, 0, (bin.rows - bin.used) * kPanel * 4);
}

// <t, center> of every word of the bin.
template <class Operand>
inline void find_shifts(const Worker<Operand>& w) {
  const int64_t words = w.bin->rows;
  if (!kCenters<Operand> || *w.image.center_square == 0.0) {
    std::memset(w.scratch.shift, 0, words * 4);
    return;
  }
  const float* rows = reinterpret_cast<const float*>(w.words.across.units);
  for (int64_t r = 0; r < words; ++r) {
    Vec sum[kParts] = {};
    for (int64_t k = 0; k < w.shape.blocks; ++k)
      for (int part = 0; part < kParts; ++part)
        sum[part] +=
            load(rows + (k * words + r) * kPanel + part * kLanes) * load(w.image.center + k * kPanel + part * kLanes);
    alignas(64) float lanes[kPanel];
    for (int part = 0; part < kParts; ++part) store(lanes + part * kLanes, sum[part]);
    w.scratch.shift[r] = static_cast<float>(lane_sum(lanes));
  }
}

// Affinities of the words with the image, then their attention.
template <class Operand>
inline void find_attention(Worker<Operand>& w) {
  w.clock.enter(Stage::kAffinity);
  product<Operand>(w.words.across, {w.image.across, w.shape.blocks * 16}, {w.scratch.affinity, w.bin->rows, false},
                   w.bin->rows, w.shape.panels, units_of<Operand>(w.problem.dim));
  w.clock.enter(Stage::kAttention);
  find_shifts(w);
  clear_padding(w.scratch.attention, *w.bin, w.shape.panels);
  switch (w.problem.word_norm) {
    case WordNorm::kNone:
      return attend<Operand, WordNorm::kNone>(w.problem, w.tile());
    case WordNorm::kSoftmax:
      return attend<Operand, WordNorm::kSoftmax>(w.problem, w.tile());
    case WordNorm::kClippedL2:
      return attend<Operand, WordNorm::kClippedL2>(w.problem, w.tile());
  }
}

// What the cosine needs beside the attention: e G in `spread` with its sums, or the contexts.
template <class Operand>
inline void find_contexts(Worker<Operand>& w, bool gram, bool backward) {
  const Scratch<Operand>& scratch = w.scratch;
  const int64_t rows = w.bin->rows, panels = w.shape.panels, dim_panels = panels_of(w.problem.dim),
                regions = units_of<Operand>(w.shape.regions), alloc = w.shape.rows / Operand::kValuesPerUnit;
  const Left attention{to_left(Operand{}, scratch.attention, rows, panels, scratch.left), rows, false};
  const Result spread{scratch.spread, rows, false};
  if (gram) {
    product<Operand>(attention, {w.image.gram, alloc}, spread, rows, panels, regions,
                     backward ? Extent::kFull : Extent::kUpperInner);
    const auto sums = *w.image.center_square != 0.0 ? gram_products<true> : gram_products<false>;
    sums(scratch.attention, scratch.spread, w.image.squares, w.image.pull, rows, panels, scratch.square, scratch.bound,
         scratch.pull);
    return;
  }
  product<Operand>(attention, {w.image.down, alloc}, {scratch.context, rows, false}, rows, dim_panels, regions);
  if (!backward) return;
  product<Operand>({to_left(Operand{}, scratch.context, rows, dim_panels, scratch.left), rows, false},
                   {w.image.across, w.shape.blocks * 16}, spread, rows, panels, units_of<Operand>(w.problem.dim));
  row_products(scratch.attention, scratch.spread, rows, panels, scratch.square);
}

// The sums of every word over the regions, and what backward needs beside them: e G in `spread`.
template <class Operand>
inline void sum_words(Worker<Operand>& w, bool backward) {
  w.clock.enter(Stage::kContext);
  if (is_hard(w.problem)) return find_best(w, backward);
  const Scratch<Operand>& scratch = w.scratch;
  const bool gram = use_gram(w.problem, w.shape.regions);
  if (w.problem.cosine) find_contexts(w, gram, backward);
  const double center = *w.image.center_square;
  scratch.direct.clear();
  for (int64_t r = 0; r < w.bin->used; ++r) {
    const auto lanes = [&](const float* values) { return lane_sum(values + r * kPanel); };
    const double sum = lanes(scratch.sum), dot = lanes(scratch.dot);
    WordSums& word = scratch.sums[r] = {sum, dot + sum * scratch.shift[r], 0.0, dot / sum, 0.0, false};
    const float level = static_cast<float>(sum / static_cast<double>(w.shape.regions));
    if (!w.problem.cosine && may_be_flat(w.problem, sum, dot, w.shape.regions) && is_flat(w, r, level))
      word.level = level;
    if (w.problem.smooth_max) {
      word.dot = sum * (scratch.top[r * kPanel] + std::log(sum) / w.problem.attention_scale);
      continue;
    }
    if (!w.problem.cosine) {
      if (word.level > 0.0f) word.dot = flat_dot(w, r);
      continue;
    }
    if (backward) word.mean_h = lanes(scratch.square) / sum;
    if (gram) {
      // e G e, with <m, v'> in G once or not at all, and what is missing of (m + sum e v' / sum e)^2.
      const double pull = center != 0.0 ? (backward ? 1 : 2) * lanes(scratch.pull) : 0.0;
      const double square = lanes(scratch.square) + sum * (pull + sum * center);
      word.context = std::sqrt(square > 0.0 || square != square ? square : 0.0);
      word.direct = cancels(square, std::max(lanes(scratch.bound), sum * sum * center));
      if (word.direct) scratch.direct.add(r);
    } else {
      sum_context(w, r, scratch.context, w.bin->rows, r);
    }
  }
  if (scratch.direct.any()) direct_words(w, backward);
}

// u of one word; of a smooth maximum, `dot` is (sum e) u. The cosine does not change when the attention is scaled, so
// its denominator only meets epsilon.
inline bool cosine_is_clamped(const WordSums& w, double norm) { return w.context * norm <= kCosineEpsilon * w.sum; }
inline double word_similarity(const Problem& problem, const WordSums& w, double norm) {
  if (!problem.cosine) return w.dot / w.sum;
  return cosine_is_clamped(w, norm) ? w.dot / w.sum / kCosineEpsilon : w.dot / (w.context * norm);
}

// u of every word of the bin.
template <class Operand>
inline void find_similarities(Worker<Operand>& w, const double* norms) {
  w.clock.enter(Stage::kPool);
  for (int64_t r = 0; r < w.bin->used; ++r)
    w.scratch.similarity[r] = word_similarity(w.problem, w.scratch.sums[r], norms[w.bin->offset + r]);
}

}  // namespace gloria::GLORIA_ISA
