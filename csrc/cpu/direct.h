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

template <class Operand>
struct Worker;

// What the score of one word with one image is made of; e is the attention without its denominator, s' and h' are the
// affinities and e G of regions less the center.
struct WordSums {
  double sum;          // sum e
  double dot;          // sum e s
  double context;      // |sum e v|, 0 for the dot similarity
  double mean_s;       // sum e s' / sum e
  double mean_h;       // sum e h' / sum e, cosine only
  bool direct;         // in the list of `Direct`
  float level = 0.0f;  // mean e of a word whose attention may be flat, else 0
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
    if (!problem.cosine || is_hard(problem)) return;
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

// V of the worker's image, as the right operand of a context.
template <class Operand>
inline const Unit* down_of(const Worker<Operand>& w, bool backward) {
  if (backward) return w.image.down;
  const Direct<Operand>& direct = w.scratch.direct;
  if (*direct.held != w.index) {
    pack_regions<Operand>(w.problem, w.index, w.shape, nullptr, direct.a_form, nullptr);
    rows_to_right(Operand{}, direct.a_form, w.shape.rows, w.shape.blocks, direct.down);
    *direct.held = w.index;
  }
  return direct.down;
}

// |c| and <c, t> of the word in row `r` of its bin, from row `i` of a C form of `alloc` contexts. <c, t> from the
// affinities would not err as |c| does, and their ratio then by more than either.
template <class Operand>
inline void sum_context(const Worker<Operand>& w, int64_t r, const float* contexts, int64_t alloc, int64_t i) {
  const int64_t dim = w.problem.dim;
  alignas(32) double square[kPanel] = {}, dot[kPanel] = {};
  with_word<Operand>(w.problem, *w.bin, r, [&](const auto* word) {
    for (int64_t d = 0; d < dim; d += kPanel)
      for (int64_t k = 0; k < kPanel && d + k < dim; ++k) {
        const double c = contexts[(d / kPanel * alloc + i) * kPanel + k];
        square[k] += c * c;
        dot[k] += c * widen(word[d + k]);
      }
  });
  w.scratch.sums[r].context = std::sqrt(lane_sum(square));
  w.scratch.sums[r].dot = lane_sum(dot);
}

// e of the words in the list from `first` on, gathered, and e V of them. Returns how many they are; the rest of the
// rows are zeros.
template <class Operand>
inline int64_t direct_contexts(const Worker<Operand>& w, bool backward, int64_t first) {
  constexpr int64_t n = Direct<Operand>::kTogether;
  const Direct<Operand>& direct = w.scratch.direct;
  const int64_t used = *direct.count - first < n ? *direct.count - first : n;
  for (int64_t p = 0; p < w.shape.panels; ++p)
    for (int64_t i = 0; i < n; ++i) {
      float* to = direct.attention + (p * n + i) * kPanel;
      if (i < used)
        std::memcpy(to, w.scratch.attention + (p * w.bin->rows + direct.rows[first + i]) * kPanel, kPanel * 4);
      else
        std::memset(to, 0, kPanel * 4);
    }
  product<Operand>({to_left(Operand{}, direct.attention, n, w.shape.panels, direct.left), n, false},
                   {down_of(w, backward), w.shape.rows / Operand::kValuesPerUnit}, {direct.context, n, false}, n,
                   panels_of(w.problem.dim), units_of<Operand>(w.shape.regions));
  return used;
}

// The sums of the words in the list; backward also writes h' over their rows of `spread`.
template <class Operand>
inline void direct_words(const Worker<Operand>& w, bool backward) {
  constexpr int64_t n = Direct<Operand>::kTogether;
  const Direct<Operand>& direct = w.scratch.direct;
  for (int64_t first = 0; first < *direct.count; first += n) {
    const int64_t used = direct_contexts(w, backward, first);
    const int64_t* rows = direct.rows + first;
    for (int64_t i = 0; i < used; ++i) sum_context(w, rows[i], direct.context, n, i);
    if (!backward) continue;
    product<Operand>({to_left(Operand{}, direct.context, n, panels_of(w.problem.dim), direct.left), n, false},
                     {w.image.across, w.shape.blocks * 16}, {direct.spread, n, false}, n, w.shape.panels,
                     units_of<Operand>(w.problem.dim));
    for (int64_t i = 0; i < used; ++i) {
      alignas(32) double lanes[kPanel] = {};
      for (int64_t p = 0; p < w.shape.panels; ++p) {
        const float *e = direct.attention + (p * n + i) * kPanel, *h = direct.spread + (p * n + i) * kPanel;
        for (int k = 0; k < kPanel; ++k) lanes[k] += static_cast<double>(e[k]) * h[k];
        std::memcpy(w.scratch.spread + (p * w.bin->rows + rows[i]) * kPanel, h, kPanel * 4);
      }
      w.scratch.sums[rows[i]].mean_h = lane_sum(lanes) / w.scratch.sums[rows[i]].sum;
    }
  }
}

// c less what the center gives it: C form of `alloc` rows, of which row i belongs to the word in row `row(i)`.
template <class Operand, class Row>
inline void center_contexts(const Worker<Operand>& w, int64_t alloc, int64_t used, Row row, float* contexts) {
  if (!kCenters<Operand> || *w.image.center_square == 0.0) return;
  for (int64_t p = 0; p < panels_of(w.problem.dim); ++p)
    for (int64_t i = 0; i < used; ++i)
      for (int64_t k = 0; k < kPanel; ++k)
        contexts[(p * alloc + i) * kPanel + k] -=
            static_cast<float>(w.scratch.sums[row(i)].sum) * w.image.center[p * kPanel + k];
}

// (dL/dV)^T += c'^T (beta e) of the words in the list.
template <class Operand>
inline void direct_gradient(const Worker<Operand>& w, const WordGradient* terms, float* grad_regions) {
  constexpr int64_t n = Direct<Operand>::kTogether, alloc = n / Operand::kValuesPerUnit;
  const Direct<Operand>& direct = w.scratch.direct;
  const int64_t dim_panels = panels_of(w.problem.dim);
  for (int64_t first = 0; first < *direct.count; first += n) {
    const int64_t used = direct_contexts(w, true, first);
    const int64_t* rows = direct.rows + first;
    center_contexts(w, n, used, [&](int64_t i) { return rows[i]; }, direct.context);
    for (int64_t p = 0; p < w.shape.panels; ++p)
      for (int64_t i = 0; i < used; ++i)
        for (int64_t k = 0; k < kPanel; ++k) direct.attention[(p * n + i) * kPanel + k] *= terms[rows[i]].beta;
    product<Operand>({to_right(Operand{}, direct.context, n, dim_panels, direct.left), alloc, true},
                     {to_right(Operand{}, direct.attention, n, w.shape.panels, direct.right), alloc},
                     {grad_regions, w.shape.width, true}, dim_panels * kPanel, w.shape.panels, alloc);
  }
}

}  // namespace gloria::GLORIA_ISA
