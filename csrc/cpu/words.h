// One bin of texts with one image: the affinities, the attention and the word similarities.
#pragma once

#include "attention.h"
#include "direct.h"
#include "flat.h"
#include "image.h"
#include "pack.h"
#include "pool.h"
#include "stages.h"

namespace gloria::GLORIA_ISA {

// A thread's buffers for one tile, sized for the largest bin and the largest image.
template <class Operand>
struct Scratch {
  float* affinity;  // C forms, rows x regions
  float* normed;
  float* attention;
  float* spread;                                   // e G: backward; forward reuses `affinity`
  float* context;                                  // C form, rows x width: e V, where the Gram way is not taken
  Unit* left;                                      // a tile rounded to an A form; unused in float32
  Unit* right;                                     // a tile rounded to a B form; likewise
  float *top, *sum, *dot, *square, *bound, *pull;  // [rows][16]
  float* shift;                                    // [rows]
  WordSums* sums;
  double* similarity;  // u of each word
  float* weights;
  Direct<Operand> direct;
  MeanRegion mean;

  Scratch(Arena& arena, const Problem& problem, const Bins& bins, const ImageShape<Operand>& largest, bool any_direct,
          bool backward)
      : direct(arena, problem, largest, bins.max_rows, backward), mean(arena, problem) {
    const int64_t rows = bins.max_rows, tile = rows * largest.rows;
    const int64_t wide = any_direct && largest.width > largest.rows ? rows * largest.width : tile;
    const bool rounds = Operand::kValuesPerUnit > 1;
    affinity = arena.take<float>(tile);
    attention = arena.take<float>(tile);
    normed = problem.word_norm == WordNorm::kNone ? affinity : backward ? arena.take<float>(tile) : attention;
    spread = backward ? arena.take<float>(tile) : affinity;
    context = any_direct ? arena.take<float>(rows * largest.width) : nullptr;
    left = rounds ? arena.take<Unit>(wide / 2) : nullptr;
    right = rounds && backward ? arena.take<Unit>(wide / 2) : nullptr;
    for (float** lanes : {&top, &sum, &dot, &square, &bound, &pull}) *lanes = arena.take<float>(rows * kPanel);
    shift = arena.take<float>(rows);
    sums = arena.take<WordSums>(rows);
    similarity = arena.take<double>(rows);
    weights = arena.take<float>(rows);
  }
};

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

template <class Operand>
inline Tile tile_of(const Scratch<Operand>& scratch, const Bin& bin, int64_t regions) {
  return {bin.texts,      bin.text_count,    bin.rows,    regions,     scratch.affinity, scratch.shift,
          scratch.normed, scratch.attention, scratch.top, scratch.sum, scratch.dot};
}

// <t, center> of every word of the bin.
template <class Operand>
inline void shifts_of(const Bin& bin, const WordOperands& words, const ImageShape<Operand>& shape,
                      const Image<Operand>& image, const Scratch<Operand>& scratch) {
  if (!kCenters<Operand> || *image.center_square == 0.0) {
    std::memset(scratch.shift, 0, bin.rows * 4);
    return;
  }
  const float* rows = reinterpret_cast<const float*>(words.across.units);
  for (int64_t r = 0; r < bin.rows; ++r) {
    Vec sum[kParts] = {};
    for (int64_t k = 0; k < shape.blocks; ++k)
      for (int part = 0; part < kParts; ++part)
        sum[part] +=
            load(rows + (k * bin.rows + r) * kPanel + part * kLanes) * load(image.center + k * kPanel + part * kLanes);
    alignas(64) float lanes[kPanel];
    for (int part = 0; part < kParts; ++part) store(lanes + part * kLanes, sum[part]);
    scratch.shift[r] = static_cast<float>(lane_sum(lanes));
  }
}

// Affinities of the words with the image, then their attention.
template <class Operand>
inline void attention_of(const Problem& problem, const Bin& bin, const WordOperands& words,
                         const ImageShape<Operand>& shape, const Image<Operand>& image, const Scratch<Operand>& scratch,
                         StageClock& clock) {
  clock.enter(Stage::kAffinity);
  product<Operand>(words.across, {image.across, shape.blocks * 16}, {scratch.affinity, bin.rows, false}, bin.rows,
                   shape.panels, units_of<Operand>(problem.dim));
  clock.enter(Stage::kAttention);
  shifts_of(bin, words, shape, image, scratch);
  clear_padding(scratch.attention, bin, shape.panels);
  const Tile tile = tile_of(scratch, bin, shape.regions);
  switch (problem.word_norm) {
    case WordNorm::kNone:
      return attend<Operand, WordNorm::kNone>(problem, tile);
    case WordNorm::kSoftmax:
      return attend<Operand, WordNorm::kSoftmax>(problem, tile);
    case WordNorm::kClippedL2:
      return attend<Operand, WordNorm::kClippedL2>(problem, tile);
  }
}

// The sums of every word over the regions, and what backward needs beside them: e G in `spread`.
template <class Operand>
inline void sum_words(const Problem& problem, int64_t index, const Bin& bin, const ImageShape<Operand>& shape,
                      const Image<Operand>& image, const Scratch<Operand>& scratch, bool backward) {
  const bool gram = use_gram(problem, shape.regions);
  if (problem.cosine) {
    const Unit* attention = to_left(Operand{}, scratch.attention, bin.rows, shape.panels, scratch.left);
    const int64_t region_words = units_of<Operand>(shape.regions), dim_panels = panels_of(problem.dim);
    const Left left{attention, bin.rows, false};
    if (gram) {
      product<Operand>(left, {image.gram, shape.rows / Operand::kValuesPerUnit}, {scratch.spread, bin.rows, false},
                       bin.rows, shape.panels, region_words, backward ? Extent::kFull : Extent::kUpperInner);
      const auto sums = *image.center_square != 0.0 ? gram_products<true> : gram_products<false>;
      sums(scratch.attention, scratch.spread, image.squares, image.pull, bin.rows, shape.panels, scratch.square,
           scratch.bound, scratch.pull);
    } else {
      product<Operand>(left, {image.down, shape.rows / Operand::kValuesPerUnit}, {scratch.context, bin.rows, false},
                       bin.rows, dim_panels, region_words);
      if (backward) {
        const Unit* context = to_left(Operand{}, scratch.context, bin.rows, dim_panels, scratch.left);
        product<Operand>({context, bin.rows, false}, {image.across, shape.blocks * 16},
                         {scratch.spread, bin.rows, false}, bin.rows, shape.panels, units_of<Operand>(problem.dim));
        row_products(scratch.attention, scratch.spread, bin.rows, shape.panels, scratch.square);
      }
    }
  }
  const double center = *image.center_square;
  const Tile tile = tile_of(scratch, bin, shape.regions);
  scratch.direct.clear();
  for (int64_t r = 0; r < bin.used; ++r) {
    const auto lanes = [&](const float* values) { return lane_sum(values + r * kPanel); };
    const double sum = lanes(scratch.sum);
    const double dot = !problem.cosine && may_be_flat(problem, sum, shape.regions)
                           ? flat_dot<Operand>(problem, index, bin, tile, scratch.mean, r, sum)
                           : lanes(scratch.dot);
    WordSums& w = scratch.sums[r] = {sum, dot + sum * scratch.shift[r], 0.0, dot / sum, 0.0, false};
    if (!problem.cosine) continue;
    if (backward) w.mean_h = lanes(scratch.square) / sum;
    if (gram) {
      // e G e, with <m, v'> in G once or not at all, and what is missing of (m + sum e v' / sum e)^2.
      const double pull = center != 0.0 ? (backward ? 1 : 2) * lanes(scratch.pull) : 0.0;
      const double square = lanes(scratch.square) + sum * (pull + sum * center);
      w.context = std::sqrt(square > 0.0 || square != square ? square : 0.0);
      w.direct = cancels(square, std::max(lanes(scratch.bound), sum * sum * center));
      if (w.direct) scratch.direct.add(r);
    } else {
      sum_context<Operand>(problem, bin, r, scratch.context, bin.rows, r, w);
    }
  }
  if (scratch.direct.any())
    direct_words(problem, index, bin, shape, image, scratch.attention, scratch.spread, scratch.sums, backward,
                 scratch.direct);
}

// u of one word. The cosine does not change when the attention is scaled, so its denominator only meets epsilon.
inline bool cosine_is_clamped(const WordSums& w, double norm) { return w.context * norm <= kCosineEpsilon * w.sum; }
inline double word_similarity(const Problem& problem, const WordSums& w, double norm) {
  if (!problem.cosine) return w.dot / w.sum;
  return cosine_is_clamped(w, norm) ? w.dot / w.sum / kCosineEpsilon : w.dot / (w.context * norm);
}

}  // namespace gloria::GLORIA_ISA
