// One image made ready for all texts: its regions packed for the products, and their Gram matrix.
#pragma once

#include "memory.h"
#include "stages.h"
#include "tile.h"

namespace gloria::GLORIA_ISA {

// The Gram way costs 2 W M (D + M/2) a pair forward, the direct way 4 W M D: measured, the two meet near M = 1.8 D. In
// a batch nothing else counts, so that a score never depends on its neighbors. In a search few words may share the cost
// of making a Gram matrix.
inline bool use_gram(const Problem& problem, int64_t regions) {
  const int64_t shared = problem.search_words, making = shared > 0 ? regions * problem.dim : 0,
                words = shared > 0 ? shared : 1;
  return problem.cosine && !is_hard(problem) && 5 * (words * regions + making) <= 9 * words * problem.dim;
}

template <class Operand>
inline int64_t units_of(int64_t n) {
  return (n + Operand::kValuesPerUnit - 1) / Operand::kValuesPerUnit;
}

// Sizes of one image of `regions` regions; the largest image sets the size of the buffers.
template <class Operand>
struct ImageShape {
  int64_t regions, dim;
  int64_t rows = padded<Operand>(regions);                                 // regions with padding
  int64_t panels = panels_of(regions);                                     // of regions
  int64_t dim_panels = padded<Operand>(dim) / kPanel;                      // of the width, whole blocks of units
  int64_t blocks = padded<Operand>(dim) / (16 * Operand::kValuesPerUnit);  // of units of the width
  int64_t width = padded<Operand>(dim);
  ImageShape(int64_t regions_, int64_t dim_) : regions(regions_), dim(dim_) {}

  int64_t regions_size() const { return rows * blocks * 16; }        // units of V in any form
  int64_t gram_size() const { return rows * (rows / kPanel) * 16; }  // values of an M x M C form
};

inline int64_t longest(const Ragged& side) {
  int64_t most = 0;
  for (int64_t i = 0; i < side.count; ++i) most = side.lengths[i] > most ? side.lengths[i] : most;
  return most;
}
inline bool any_direct(const Problem& problem) {
  bool any = false;
  for (int64_t i = 0; i < problem.images.count; ++i)
    any = any || (problem.cosine && !is_hard(problem) && !use_gram(problem, problem.images.lengths[i]));
  return any;
}

// Backward in float32 multiplies by regions less their mean m, the center: what the attention receives is the small
// difference of alpha <t, v_j> and beta <c, v_j> that is left between regions, and their common part, however large,
// has no share in it. In bfloat16 a centered region would be rounded again; there only G is of centered regions, since
// it is rounded anyhow (`center_gram`).
template <class Operand>
constexpr bool kCenters = Operand::kValuesPerUnit == 1;

template <class Operand>
struct Image {
  Unit*
      across;  // B form of V^T: K is the width, columns are regions (affinities). Backward in float32: less the center
  Unit* down;  // B form of V: K is the regions, columns are the width (contexts, word gradients)
  Unit* gram;  // B form of G = V V^T
  Unit* rows;  // A form of V, the same as `down` in float32; null where `across` serves for it
  float* product;         // C form of G while packing; in float32 the same as `gram`
  float* center;          // [width] m, zeros where `across` is not centered
  double* center_square;  // |m|^2, 0 where G is not centered
  float* squares;         // [regions] diagonal of G: |v_j - m|^2
  float* pull;            // [regions] <m, v_j - m>

  Image() = default;
  Image(Arena& arena, const Problem& problem, bool backward) {
    constexpr bool rounds = Operand::kValuesPerUnit > 1;
    const ImageShape<Operand> largest(longest(problem.images), problem.dim);
    const bool needs_down = backward || any_direct(problem), has_gram = problem.cosine && !is_hard(problem);
    across = arena.take<Unit>(largest.regions_size());
    rows = rounds || needs_down ? arena.take<Unit>(largest.regions_size()) : nullptr;
    product = has_gram ? arena.take<float>(largest.gram_size()) : nullptr;
    down = !rounds ? rows : needs_down ? arena.take<Unit>(largest.regions_size()) : nullptr;
    gram = !rounds ? reinterpret_cast<Unit*>(product) : has_gram ? arena.take<Unit>(largest.gram_size() / 2) : nullptr;
    center = arena.take<float>(largest.width);
    center_square = arena.take<double>(1);
    squares = arena.take<float>(largest.rows);
    pull = arena.take<float>(largest.rows);
  }
};

// Whether the center is long beside some region, whose affinities would be the difference of two that are longer.
template <class Value>
inline bool outweighs(const float* center, const Value* rows, int64_t regions, int64_t dim) {
  for (int64_t j = 0; j < regions; ++j, rows += dim) {
    alignas(64) float own[kPanel] = {}, away[kPanel] = {};
    const auto add = [&](int64_t d, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        const float v = widen(rows[d + i]), rest = v - center[d + i];
        own[i] += v * v;
        away[i] += rest * rest;
      }
    };
    int64_t d = 0;
    for (; d + kPanel <= dim; d += kPanel) add(d, kPanel);
    add(d, dim - d);
    if (lane_sum(away) > 4 * lane_sum(own)) return true;
  }
  return false;
}

// The mean of the regions, or zeros. Any vector near it serves as well: its rounding does not matter.
template <class Operand>
inline void find_center(const Problem& problem, int64_t image, const ImageShape<Operand>& shape, bool centers,
                        const Image<Operand>& out) {
  std::memset(out.center, 0, shape.width * 4);
  *out.center_square = 0.0;
  if (!centers) return;
  with_typed<Operand>(problem.dtype, problem.images.rows, [&](const auto* rows) {
    rows += problem.images.starts[image] * problem.dim;
    for (int64_t j = 0; j < shape.regions; ++j) add_row(rows + j * problem.dim, problem.dim, out.center);
    for (int64_t d = 0; d < problem.dim; ++d) out.center[d] /= static_cast<float>(shape.regions);
    if (outweighs(out.center, rows, shape.regions, problem.dim)) std::memset(out.center, 0, shape.width * 4);
  });
  for (int64_t d = 0; d < problem.dim; ++d) *out.center_square += static_cast<double>(out.center[d]) * out.center[d];
}

// out[j] = <center, v_j - center>
template <class Operand>
inline void find_pull(const ImageShape<Operand>& shape, const Image<Operand>& out) {
  for (int64_t p = 0; p < shape.panels; ++p) {
    const float* regions = reinterpret_cast<const float*>(out.across + p * shape.blocks * 256);
    Vec sum[kParts] = {};
    for (int64_t d = 0; d < shape.dim; ++d)
      for (int part = 0; part < kParts; ++part) sum[part] += load(regions + d * kPanel + part * kLanes) * out.center[d];
    for (int part = 0; part < kParts; ++part) store(out.pull + p * kPanel + part * kLanes, sum[part]);
  }
}

// Regions of one image into `across`, less the center, and into `rows` as they are where that is kept: 16 x 16 units
// are packed, and transposed while they are in cache. Without `across` the rows alone.
template <class Operand>
inline void pack_regions(const Problem& problem, int64_t image, const ImageShape<Operand>& shape, Unit* across,
                         Unit* out_rows, const float* center) {
  constexpr int64_t step = 16 * Operand::kValuesPerUnit;
  alignas(64) Unit spare[256], centered[256];
  with_typed<Operand>(problem.dtype, problem.images.rows, [&](const auto* rows) {
    rows += problem.images.starts[image] * problem.dim;
    for (int64_t p = 0; p < shape.rows / kPanel; ++p)
      for (int64_t k = 0; k < shape.blocks; ++k) {
        Unit* block = out_rows ? out_rows + (k * shape.rows + p * kPanel) * 16 : spare;
        const int64_t there = shape.regions - p * kPanel < kPanel ? shape.regions - p * kPanel : kPanel;
        for (int64_t r = 0; r < kPanel; ++r)
          if (r < there)
            pack_units(Operand{}, rows + (p * kPanel + r) * problem.dim, k * step, problem.dim, block + r * 16);
          else
            std::memset(block + r * 16, 0, 64);
        if (!across) continue;
        if (center) {
          for (int64_t r = 0; r < kPanel; ++r)
            if (r < there)
              less_center(block + r * 16, center + k * step, centered + r * 16);
            else
              std::memset(centered + r * 16, 0, 64);
          block = centered;
        }
        transpose_blocks(block, 1, 16, across + (p * shape.blocks + k) * 256);
      }
  });
}

// Takes q_j + q_k + r out of G in bfloat16, so that its rounding is that of <v_j - m, v_k - m>: with the mean p_j of
// each row, r is the mean of p (|m|^2) and q = p - r. Whatever the sums lose changes q, and what is taken out with it.
template <class Operand>
inline void center_gram(const ImageShape<Operand>& shape, const Image<Operand>& out) {
  const auto for_upper = [&](auto use) {  // `use(values, first column, row, whether their mirror image is missing)`
    for (int64_t p = 0; p < shape.panels; ++p) {
      const int64_t group = p / kGroup * kGroup * kPanel, end = group + kGroup * kPanel;
      for (int64_t r = 0; r < end && r < shape.regions; ++r)
        use(out.product + (p * shape.rows + r) * kPanel, p * kPanel, r, r < group);
    }
  };
  std::memset(out.pull, 0, shape.rows * 4);
  for_upper([&](const float* values, int64_t column, int64_t row, bool mirrored) {
    float total = 0.0f;
    for (int i = 0; i < kPanel; ++i) out.pull[column + i] += values[i], total += values[i];
    if (mirrored) out.pull[row] += total;
  });
  double mean = 0.0;
  for (int64_t j = 0; j < shape.regions; ++j) mean += out.pull[j];
  const float regions = static_cast<float>(shape.regions),
              rest = static_cast<float>(mean / shape.regions / shape.regions);
  for (int64_t j = 0; j < shape.panels * kPanel; ++j)
    out.pull[j] = j < shape.regions ? out.pull[j] / regions - rest : 0.0f;
  *out.center_square = rest;
  for_upper([&](float* values, int64_t column, int64_t row, bool) {
    for (int i = 0; i < kPanel; ++i) values[i] -= out.pull[column + i] + (out.pull[row] + rest);
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

// G' with off-diagonal blocks doubled and nothing below the diagonal blocks: e' G e = e' G' e for 54 % of the work (at
// M = 361).
inline void double_upper(float* c_form, int64_t rows, int64_t panels) {
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t diagonal = p / kGroup * kGroup * kPanel;
    for (int64_t i = 0; i < diagonal * kPanel; ++i) c_form[p * rows * kPanel + i] *= 2.0f;
  }
}

// Fills what the direction needs. Backward wants V both ways and all of G; forward only the triangle of G.
//
// With v_j = m + v'_j, G is <v'_k, v'_j> where it is centered. Backward adds <m, v'_j>, so that (e G)_j is <sum e v,
// v'_j>.
template <class Operand>
inline void prepare_image(const Problem& problem, int64_t image, bool backward, const Image<Operand>& out,
                          StageClock& clock) {
  clock.enter(Stage::kPack);
  const ImageShape<Operand> shape(problem.images.lengths[image], problem.dim);
  const bool centers = kCenters<Operand> && backward && problem.cosine, gram = use_gram(problem, shape.regions);
  find_center(problem, image, shape, centers, out);
  pack_regions(problem, image, shape, out.across, out.rows, centers ? out.center : nullptr);
  if (backward || (problem.cosine && !gram && !is_hard(problem)))
    rows_to_right(Operand{}, out.rows, shape.rows, shape.blocks, out.down);
  if (!gram) return;

  clock.enter(Stage::kGram);
  const Left left =
      out.rows && !centers ? Left{out.rows, shape.rows, false} : Left{out.across, shape.blocks * 16, true};
  const Right right{out.across, shape.blocks * 16};
  product<Operand>(left, right, Result{out.product, shape.rows, false}, shape.panels * kPanel, shape.panels,
                   units_of<Operand>(problem.dim), Extent::kUpperRows);
  for (int64_t p = 0; p < shape.panels; ++p)  // rows beyond the last panel are K of the next product
    std::memset(out.product + (p * shape.rows + shape.panels * kPanel) * kPanel, 0,
                (shape.rows - shape.panels * kPanel) * kPanel * 4);
  if constexpr (!kCenters<Operand>)
    center_gram(shape, out);
  else if (centers)
    find_pull(shape, out);
  for (int64_t j = 0; j < shape.panels * kPanel; ++j)
    out.squares[j] = out.product[(j / kPanel * shape.rows + j) * kPanel + j % kPanel];
  if (!backward) {
    double_upper(out.product, shape.rows, shape.panels);
  } else {
    mirror(out.product, shape.rows, shape.panels);
    for (int64_t p = 0; p < shape.panels; ++p)
      for (int64_t i = 0; i < shape.regions * kPanel; i += kLanes) {
        float* value = out.product + p * shape.rows * kPanel + i;
        store(value, load(value) + load(out.pull + p * kPanel + i % kPanel));
      }
  }
  to_right(Operand{}, out.product, shape.rows, shape.panels, out.gram);
}

}  // namespace gloria::GLORIA_ISA
