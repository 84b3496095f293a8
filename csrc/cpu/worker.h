// A thread of a call: its buffers, its clock, and the image and the bin of texts that it works on.
#pragma once

#include "attention.h"
#include "direct.h"
#include "flat.h"
#include "image.h"
#include "maximum.h"
#include "pack.h"
#include "parallel.h"
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
  Best best;

  Scratch(Arena& arena, const Problem& problem, const Bins& bins, bool backward)
      : direct(arena, problem, {longest(problem.images), problem.dim}, bins.max_rows, backward),
        mean(arena, problem),
        best(arena, problem, bins.max_rows) {
    const ImageShape<Operand> largest(longest(problem.images), problem.dim);
    const bool contexts = any_direct(problem);
    const int64_t rows = bins.max_rows, tile = rows * largest.rows;
    const int64_t wide = contexts && largest.width > largest.rows ? rows * largest.width : tile;
    const bool rounds = Operand::kValuesPerUnit > 1;
    affinity = arena.take<float>(tile);
    attention = arena.take<float>(tile);
    normed = problem.word_norm == WordNorm::kNone ? affinity : backward ? arena.take<float>(tile) : attention;
    spread = backward ? arena.take<float>(tile) : affinity;
    context = contexts ? arena.take<float>(rows * largest.width) : nullptr;
    left = rounds ? arena.take<Unit>(wide / 2) : nullptr;
    right = rounds && backward ? arena.take<Unit>(wide / 2) : nullptr;
    for (float** lanes : {&top, &sum, &dot, &square, &bound, &pull}) *lanes = arena.take<float>(rows * kPanel);
    shift = arena.take<float>(rows);
    sums = arena.take<WordSums>(rows);
    similarity = arena.take<double>(rows);
    weights = arena.take<float>(rows);
  }
};

template <class Operand>
struct Worker {
  const Problem& problem;
  Member member;
  Scratch<Operand> scratch;
  StageClock clock{problem.stage_nanoseconds};
  int64_t index = 0;  // of the image
  ImageShape<Operand> shape{0, 0};
  Image<Operand> image{};
  const Bin* bin = nullptr;
  WordOperands words{};

  // Works on image `i` from now on, whose regions are, or will be, in `its`.
  void take_image(int64_t i, const Image<Operand>& its) {
    index = i;
    shape = {problem.images.lengths[i], problem.dim};
    image = its;
  }
  void take_bin(const Bin& its, const WordOperands& operands) {
    bin = &its;
    words = operands;
  }
  Tile tile() const {
    return {bin->texts,     bin->text_count,   bin->rows,   shape.regions, scratch.affinity, scratch.shift,
            scratch.normed, scratch.attention, scratch.top, scratch.sum,   scratch.dot};
  }
};

}  // namespace gloria::GLORIA_ISA
