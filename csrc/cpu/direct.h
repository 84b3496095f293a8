// Words whose contexts nearly cancel: their sums over the regions are formed again, from the context itself.
//
// e G e loses the digits that |sum e v|^2 has fewer of than sum e^2 |v|^2, which is what independent regions give:
// regions centered over the image, or opposite ones. Whether a word goes this way depends on itself and its image
// alone, and so do its results.
#pragma once

#include "attention.h"
#include "image.h"
#include "pack.h"

namespace gloria::GLORIA_ISA {

// What the score of one word with one image is made of; e is the attention without its denominator, s' and h' are the
// affinities and e G of regions less the center.
struct WordSums {
  double sum;      // sum e
  double dot;      // sum e s
  double context;  // |sum e v|, 0 for the dot similarity
  double mean_s;   // sum e s' / sum e
  double mean_h;   // sum e h' / sum e, cosine only
  bool direct;     // in the list of `Direct`
};

// Contexts of independent regions of width 64 and more are far above: 1 +- 2 sqrt(2 / width).
inline bool cancels(double square, double independent) { return square < 0.5 * independent; }

// A thread's list of such words in a tile, and the buffers for kTogether of them.
template <class Operand>
struct Direct {
  static constexpr int64_t kTogether = 32;

  int64_t* count = nullptr;
  int64_t* rows;
  int64_t* held;                        // the image whose regions are in `down`, or -1
  Unit *a_form, *down;                  // forward: V in the forms of `Image`, packed for the first word that asks
  float *attention, *context, *spread;  // C forms of kTogether rows
  Unit *left, *right;

  Direct(Arena& arena, const Problem& problem, const ImageShape<Operand>& largest, int64_t most, bool backward) {
    if (!problem.cosine) return;
    constexpr bool rounds = Operand::kValuesPerUnit > 1;
    count = arena.take<int64_t>(1);
    held = arena.take<int64_t>(1);
    rows = arena.take<int64_t>(most);
    a_form = backward ? nullptr : arena.take<Unit>(largest.regions_size());
    down = backward || !rounds ? a_form : arena.take<Unit>(largest.regions_size());
    attention = arena.take<float>(kTogether * largest.rows);
    context = arena.take<float>(kTogether * largest.width);
    spread = backward ? arena.take<float>(kTogether * largest.rows) : nullptr;
    left = rounds ? arena.take<Unit>(kTogether * (largest.width > largest.rows ? largest.width : largest.rows) / 2)
                  : nullptr;
    right = rounds && backward ? arena.take<Unit>(kTogether * largest.rows / 2) : nullptr;
    if (count) *count = 0, *held = -1;
  }
  void clear() const {
    if (count) *count = 0;
  }
  bool any() const { return count && *count > 0; }
  void add(int64_t row) const { rows[(*count)++] = row; }

  const Unit* down_of(const Problem& problem, int64_t image, const ImageShape<Operand>& shape) const {
    if (*held != image) {
      pack_regions<Operand>(problem, image, shape, nullptr, a_form, nullptr);
      rows_to_right(Operand{}, a_form, shape.rows, shape.blocks, down);
      *held = image;
    }
    return down;
  }
};

// `use(row)` with the word in row `r` of its bin, typed.
template <class Operand, class Use>
inline void with_word(const Problem& problem, const Bin& bin, int64_t r, Use use) {
  const BinText* text = bin.texts;
  while (r >= text->end) ++text;
  with_typed<Operand>(problem.dtype, problem.texts.rows, [&](const auto* rows) {
    use(rows + (problem.texts.starts[text->text] + r - text->begin) * problem.dim);
  });
}

// |c| and <c, t> of the word in row `r` of its bin, from row `i` of a C form of `alloc` contexts. <c, t> from the
// affinities would not err as |c| does, and their ratio then by more than either.
template <class Operand>
inline void sum_context(const Problem& problem, const Bin& bin, int64_t r, const float* contexts, int64_t alloc,
                        int64_t i, WordSums& sums) {
  alignas(32) double square[kPanel] = {}, dot[kPanel] = {};
  with_word<Operand>(problem, bin, r, [&](const auto* word) {
    for (int64_t d = 0; d < problem.dim; d += kPanel)
      for (int64_t k = 0; k < kPanel && d + k < problem.dim; ++k) {
        const double c = contexts[(d / kPanel * alloc + i) * kPanel + k];
        square[k] += c * c;
        dot[k] += c * widen(word[d + k]);
      }
  });
  sums.context = std::sqrt(lane_sum(square));
  sums.dot = lane_sum(dot);
}

// e of the words in the list from `first` on, gathered, and e V of them. Returns how many they are; the rest of the
// rows are zeros.
template <class Operand>
inline int64_t direct_contexts(const Problem& problem, int64_t index, const Bin& bin, const ImageShape<Operand>& shape,
                               const Image<Operand>& image, const float* attention, bool backward,
                               const Direct<Operand>& direct, int64_t first) {
  constexpr int64_t n = Direct<Operand>::kTogether;
  const int64_t used = *direct.count - first < n ? *direct.count - first : n;
  for (int64_t p = 0; p < shape.panels; ++p)
    for (int64_t i = 0; i < n; ++i) {
      float* to = direct.attention + (p * n + i) * kPanel;
      if (i < used)
        std::memcpy(to, attention + (p * bin.rows + direct.rows[first + i]) * kPanel, kPanel * 4);
      else
        std::memset(to, 0, kPanel * 4);
    }
  const Right down{backward ? image.down : direct.down_of(problem, index, shape), shape.rows / Operand::kValuesPerUnit};
  product<Operand>({to_left(Operand{}, direct.attention, n, shape.panels, direct.left), n, false}, down,
                   {direct.context, n, false}, n, panels_of(problem.dim), units_of<Operand>(shape.regions));
  return used;
}

// The sums of the words in the list; backward also writes h' over their rows of `spread`.
template <class Operand>
inline void direct_words(const Problem& problem, int64_t index, const Bin& bin, const ImageShape<Operand>& shape,
                         const Image<Operand>& image, const float* attention, float* spread, WordSums* sums,
                         bool backward, const Direct<Operand>& direct) {
  constexpr int64_t n = Direct<Operand>::kTogether;
  for (int64_t first = 0; first < *direct.count; first += n) {
    const int64_t used = direct_contexts(problem, index, bin, shape, image, attention, backward, direct, first);
    const int64_t* rows = direct.rows + first;
    for (int64_t i = 0; i < used; ++i) sum_context<Operand>(problem, bin, rows[i], direct.context, n, i, sums[rows[i]]);
    if (!backward) continue;
    product<Operand>({to_left(Operand{}, direct.context, n, panels_of(problem.dim), direct.left), n, false},
                     {image.across, shape.blocks * 16}, {direct.spread, n, false}, n, shape.panels,
                     units_of<Operand>(problem.dim));
    for (int64_t i = 0; i < used; ++i) {
      alignas(32) double lanes[kPanel] = {};
      for (int64_t p = 0; p < shape.panels; ++p) {
        const float *e = direct.attention + (p * n + i) * kPanel, *h = direct.spread + (p * n + i) * kPanel;
        for (int k = 0; k < kPanel; ++k) lanes[k] += static_cast<double>(e[k]) * h[k];
        std::memcpy(spread + (p * bin.rows + rows[i]) * kPanel, h, kPanel * 4);
      }
      sums[rows[i]].mean_h = lane_sum(lanes) / sums[rows[i]].sum;
    }
  }
}

// c less what the center gives it: C form of `alloc` rows, of which row i belongs to the word whose sum of e is
// `sum(i)`.
template <class Operand, class Sum>
inline void center_contexts(const ImageShape<Operand>& shape, const Image<Operand>& image, int64_t alloc, int64_t used,
                            Sum sum, float* contexts) {
  if (!kCenters<Operand> || *image.center_square == 0.0) return;
  for (int64_t p = 0; p < panels_of(shape.dim); ++p)
    for (int64_t i = 0; i < used; ++i)
      for (int64_t k = 0; k < kPanel; ++k)
        contexts[(p * alloc + i) * kPanel + k] -= static_cast<float>(sum(i)) * image.center[p * kPanel + k];
}

// (dL/dV)^T += c'^T (beta e) of the words in the list.
template <class Operand>
inline void direct_gradient(const Problem& problem, int64_t index, const Bin& bin, const ImageShape<Operand>& shape,
                            const Image<Operand>& image, const float* attention, const WordSums* sums,
                            const WordGradient* terms, const Direct<Operand>& direct, float* grad_regions) {
  constexpr int64_t n = Direct<Operand>::kTogether, alloc = n / Operand::kValuesPerUnit;
  const int64_t dim_panels = panels_of(problem.dim);
  for (int64_t first = 0; first < *direct.count; first += n) {
    const int64_t used = direct_contexts(problem, index, bin, shape, image, attention, true, direct, first);
    const int64_t* rows = direct.rows + first;
    center_contexts(shape, image, n, used, [&](int64_t i) { return sums[rows[i]].sum; }, direct.context);
    for (int64_t p = 0; p < shape.panels; ++p)
      for (int64_t i = 0; i < used; ++i)
        for (int64_t k = 0; k < kPanel; ++k) direct.attention[(p * n + i) * kPanel + k] *= terms[rows[i]].beta;
    product<Operand>({to_right(Operand{}, direct.context, n, dim_panels, direct.left), alloc, true},
                     {to_right(Operand{}, direct.attention, n, shape.panels, direct.right), alloc},
                     {grad_regions, shape.width, true}, dim_panels * kPanel, shape.panels, alloc);
  }
}

}  // namespace gloria::GLORIA_ISA
