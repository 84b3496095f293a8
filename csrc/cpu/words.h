// One bin of texts with one image: the affinities, the attention and the word similarities.
#pragma once

#include "attention.h"
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
  float* spread;                    // e G: backward; forward reuses `affinity`
  float* context;                   // C form, rows x width: e V, where the Gram way is not taken
  Word* left;                       // a tile rounded to an A form; unused in float32
  Word* right;                      // a tile rounded to a B form; likewise
  float *top, *sum, *dot, *square;  // [rows][16]
  double* similarity;               // u of each word
  float* weights;

  Scratch(Arena& arena, const Problem& problem, const Bins& bins, const ImageShape<Operand>& largest, bool any_direct, bool backward) {
    const int64_t rows = bins.max_rows, tile = rows * largest.rows;
    const int64_t wide = any_direct && largest.width > largest.rows ? rows * largest.width : tile;
    const bool rounds = Operand::kPer > 1;
    affinity = arena.take<float>(tile);
    attention = arena.take<float>(tile);
    normed = problem.word_norm == WordNorm::kNone ? affinity : backward ? arena.take<float>(tile) : attention;
    spread = backward ? arena.take<float>(tile) : affinity;
    context = any_direct ? arena.take<float>(rows * largest.width) : nullptr;
    left = rounds ? arena.take<Word>(wide / 2) : nullptr;
    right = rounds && backward ? arena.take<Word>(wide / 2) : nullptr;
    top = arena.take<float>(rows * kPanel);
    sum = arena.take<float>(rows * kPanel);
    dot = arena.take<float>(rows * kPanel);
    square = arena.take<float>(rows * kPanel);
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

// Rows that hold no word are inner dimension of the gradients' products: they must be zeros there.
inline void clear_padding(float* c_form, const Bin& bin, int64_t panels) {
  for (int64_t p = 0; p < panels; ++p) std::memset(c_form + (p * bin.rows + bin.used) * kPanel, 0, (bin.rows - bin.used) * kPanel * 4);
}

template <class Operand>
inline Tile tile_of(const Scratch<Operand>& scratch, const Bin& bin, int64_t regions) {
  return {bin.texts,      bin.text_count,    bin.rows,    regions,     scratch.affinity,
          scratch.normed, scratch.attention, scratch.top, scratch.sum, scratch.dot};
}

// Affinities of the words with the image, then their attention.
template <class Operand>
inline void attention_of(const Problem& problem, const Bin& bin, const PackedBin& words, const ImageShape<Operand>& shape,
                         const Image<Operand>& image, const Scratch<Operand>& scratch, StageClock& clock) {
  clock.enter(Stage::kAffinity);
  product<Operand>(words.across, {image.across, shape.blocks * 16}, {scratch.affinity, bin.rows, false}, bin.rows, shape.panels,
                   words_of<Operand>(problem.dim));
  clock.enter(Stage::kAttention);
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

// |sum_j e_j v_j|^2 of every word as 16 lanes, and what backward needs of it: e G in `spread` (all of it only if `backward`).
template <class Operand>
inline void context_norms(const Problem& problem, const Bin& bin, const ImageShape<Operand>& shape, const Image<Operand>& image,
                          const Scratch<Operand>& scratch, bool backward) {
  const Word* attention = to_left(Operand{}, scratch.attention, bin.rows, shape.panels, scratch.left);
  const int64_t region_words = words_of<Operand>(shape.regions);
  const Left left{attention, bin.rows, false};
  if (use_gram(problem, shape.regions)) {
    product<Operand>(left, {image.gram, shape.rows / Operand::kPer}, {scratch.spread, bin.rows, false}, bin.rows, shape.panels,
                     region_words, backward ? Extent::kFull : Extent::kUpperInner);
    row_products(scratch.attention, scratch.spread, bin.rows, shape.panels, scratch.square);
    return;
  }
  const int64_t dim_panels = panels_of(problem.dim);
  product<Operand>(left, {image.down, shape.rows / Operand::kPer}, {scratch.context, bin.rows, false}, bin.rows, dim_panels, region_words);
  row_products(scratch.context, scratch.context, bin.rows, dim_panels, scratch.square);
  if (!backward) return;
  const Word* context = to_left(Operand{}, scratch.context, bin.rows, dim_panels, scratch.left);
  product<Operand>({context, bin.rows, false}, {image.across, shape.blocks * 16}, {scratch.spread, bin.rows, false}, bin.rows, shape.panels,
                   words_of<Operand>(problem.dim));
}

// What the cosine or dot of one word with its context is made of; e is the attention without its denominator.
struct WordSums {
  double dot;      // sum e s
  double sum;      // sum e
  double context;  // |sum e v|, 0 for the dot similarity
};

template <class Operand>
inline WordSums word_sums(const Problem& problem, const Scratch<Operand>& scratch, int64_t row) {
  const double square = problem.cosine ? lane_sum(scratch.square + row * kPanel) : 0.0;
  return {lane_sum(scratch.dot + row * kPanel), lane_sum(scratch.sum + row * kPanel),
          std::sqrt(square > 0.0 || square != square ? square : 0.0)};
}

// u of one word. The cosine does not change when the attention is scaled, so its denominator only meets epsilon.
inline bool cosine_is_clamped(const WordSums& w, double norm) { return w.context * norm <= kCosineEpsilon * w.sum; }
inline double word_similarity(const Problem& problem, const WordSums& w, double norm) {
  if (!problem.cosine) return w.dot / w.sum;
  return cosine_is_clamped(w, norm) ? w.dot / w.sum / kCosineEpsilon : w.dot / (w.context * norm);
}

}  // namespace gloria::GLORIA_ISA
