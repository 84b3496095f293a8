// One image made ready for all texts: its regions packed for the products, and their Gram matrix.
#pragma once

#include "memory.h"
#include "stages.h"
#include "tile.h"

namespace gloria::GLORIA_ISA {

// The Gram way costs 2 W M (D + M/2) a pair forward, the direct way 4 W M D: measured, the two meet near M = 1.8 D. In a batch nothing
// else counts, so that a score never depends on its neighbours. In a search few words may share the cost of making a Gram matrix.
inline bool use_gram(const Problem& problem, int64_t regions) {
  const int64_t shared = problem.search_words, making = shared > 0 ? regions * problem.dim : 0, words = shared > 0 ? shared : 1;
  return problem.cosine && 5 * (words * regions + making) <= 9 * words * problem.dim;
}

template <class Operand>
inline int64_t words_of(int64_t n) {
  return (n + Operand::kPer - 1) / Operand::kPer;
}

// Sizes of one image of `regions` regions; the largest image sets the size of the buffers.
template <class Operand>
struct ImageShape {
  int64_t regions, dim;
  int64_t rows = padded<Operand>(regions);                       // regions with padding
  int64_t panels = panels_of(regions);                           // of regions
  int64_t dim_panels = padded<Operand>(dim) / kPanel;            // of the width, whole blocks of words
  int64_t blocks = padded<Operand>(dim) / (16 * Operand::kPer);  // of words of the width
  int64_t width = padded<Operand>(dim);
  ImageShape(int64_t regions_, int64_t dim_) : regions(regions_), dim(dim_) {}

  int64_t regions_size() const { return rows * blocks * 16; }        // words of V in any form
  int64_t gram_size() const { return rows * (rows / kPanel) * 16; }  // values of an M x M C form
};

inline int64_t longest(const Ragged& side) {
  int64_t most = 0;
  for (int64_t i = 0; i < side.count; ++i) most = side.lengths[i] > most ? side.lengths[i] : most;
  return most;
}
inline bool any_direct(const Problem& problem) {
  bool any = false;
  for (int64_t i = 0; i < problem.images.count; ++i) any = any || (problem.cosine && !use_gram(problem, problem.images.lengths[i]));
  return any;
}

template <class Operand>
struct Image {
  Word* across;    // B form of V^T: K is the width, columns are regions (affinities)
  Word* down;      // B form of V: K is the regions, columns are the width (contexts, word gradients)
  Word* gram;      // B form of G = V V^T
  Word* rows;      // A form of V, the same as `down` in float32; null where `across` serves for it
  float* product;  // C form of G while packing; in float32 the same as `gram`

  // `needs_down`: backward, or contexts formed directly.
  Image(Arena& arena, const Problem& problem, const ImageShape<Operand>& largest, bool needs_down) {
    constexpr bool rounds = Operand::kPer > 1;
    across = arena.take<Word>(largest.regions_size());
    rows = rounds || needs_down ? arena.take<Word>(largest.regions_size()) : nullptr;
    product = problem.cosine ? arena.take<float>(largest.gram_size()) : nullptr;
    down = !rounds ? rows : needs_down ? arena.take<Word>(largest.regions_size()) : nullptr;
    gram = !rounds ? reinterpret_cast<Word*>(product) : problem.cosine ? arena.take<Word>(largest.gram_size() / 2) : nullptr;
  }
};

// Regions of one image into `across`, and `rows` where it is kept: 16 x 16 words are packed, and transposed while they are in cache.
template <class Operand>
inline void pack_regions(const Problem& problem, int64_t image, const ImageShape<Operand>& shape, const Image<Operand>& out) {
  constexpr int64_t step = 16 * Operand::kPer;
  alignas(64) Word spare[256];
  with_typed<Operand>(problem.dtype, problem.images.rows, [&](const auto* rows) {
    rows += problem.images.starts[image] * problem.dim;
    for (int64_t p = 0; p < shape.rows / kPanel; ++p)
      for (int64_t k = 0; k < shape.blocks; ++k) {
        Word* block = out.rows ? out.rows + (k * shape.rows + p * kPanel) * 16 : spare;
        for (int64_t r = 0; r < kPanel; ++r)
          if (p * kPanel + r < shape.regions)
            pack_words(Operand{}, rows + (p * kPanel + r) * problem.dim, k * step, problem.dim, block + r * 16);
          else
            std::memset(block + r * 16, 0, 64);
        transpose_blocks(block, 1, 16, out.across + (p * shape.blocks + k) * 256);
      }
  });
}

// Mirrors the upper block triangle of a symmetric C form. Blocks are as wide as the products made them: kUpperRows.
inline void mirror(float* c_form, int64_t rows, int64_t panels) {
  for (int64_t p = 0; p < panels; ++p)
    for (int64_t r = (p + 1) * kPanel; r < panels * kPanel; ++r) {
      const float* from = c_form + (r / kPanel) * rows * kPanel + p * kPanel * kPanel + r % kPanel;
      float* to = c_form + (p * rows + r) * kPanel;
      for (int i = 0; i < kPanel; ++i) to[i] = from[i * kPanel];
    }
}

// G' with off-diagonal blocks doubled and nothing below the diagonal blocks: e' G e = e' G' e for 54 % of the work (at M = 361).
inline void double_upper(float* c_form, int64_t rows, int64_t panels) {
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t diagonal = p / kGroup * kGroup * kPanel;
    for (int64_t i = 0; i < diagonal * kPanel; ++i) c_form[p * rows * kPanel + i] *= 2.0f;
  }
}

// Fills what the direction needs. Backward wants V both ways and all of G; forward only the triangle of G.
template <class Operand>
inline void prepare_image(const Problem& problem, int64_t image, bool backward, const Image<Operand>& out, StageClock& clock) {
  clock.enter(Stage::kPack);
  const ImageShape<Operand> shape(problem.images.lengths[image], problem.dim);
  pack_regions(problem, image, shape, out);
  const bool gram = use_gram(problem, shape.regions);
  if (backward || (problem.cosine && !gram)) rows_to_right(Operand{}, out.rows, shape.rows, shape.blocks, out.down);
  if (!gram) return;

  clock.enter(Stage::kGram);
  const Left left = out.rows ? Left{out.rows, shape.rows, false} : Left{out.across, shape.blocks * 16, true};
  const Right right{out.across, shape.blocks * 16};
  product<Operand>(left, right, Result{out.product, shape.rows, false}, shape.panels * kPanel, shape.panels, words_of<Operand>(problem.dim),
                   Extent::kUpperRows);
  for (int64_t p = 0; p < shape.panels; ++p)  // rows beyond the last panel are K of the next product
    std::memset(out.product + (p * shape.rows + shape.panels * kPanel) * kPanel, 0, (shape.rows - shape.panels * kPanel) * kPanel * 4);
  if (backward)
    mirror(out.product, shape.rows, shape.panels);
  else
    double_upper(out.product, shape.rows, shape.panels);
  to_right(Operand{}, out.product, shape.rows, shape.panels, out.gram);
}

}  // namespace gloria::GLORIA_ISA
