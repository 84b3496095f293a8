// A hard maximum over the regions: of each word the best region, or those that tie and share, and nothing of the
// others.
//
// Backward touches their rows alone. It takes the best that forward kept; where it kept none, and for a bin with ties,
// it finds them again, which costs the product of forward.
#pragma once

#include <cmath>

#include "attention.h"
#include "direct.h"
#include "pool.h"

namespace gloria::GLORIA_ISA {

// A thread's list of the best regions of the words of a tile.
struct Best {
  int64_t* first = nullptr;
  int64_t* count = nullptr;  // more than one where regions tie, which are then looked for again
  float* sum = nullptr;      // [width] of the best regions of one word

  Best(Arena& arena, const Problem& problem, int64_t most) {
    if (!is_hard(problem)) return;
    first = arena.take<int64_t>(most);
    count = arena.take<int64_t>(most);
    sum = arena.take<float>(panels_of(problem.dim) * kPanel);
  }
};

inline bool any(IVec mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) != 0;
#else
  typedef int64_t Pairs __attribute__((vector_size(4 * kLanes)));
  const Pairs pairs = reinterpret_cast<Pairs>(mask);
  int64_t found = 0;
  for (int i = 0; i < kLanes / 2; ++i) found |= pairs[i];
  return found != 0;
#endif
}

// `use(region)` for each region whose x is the maximum of the word in row `r`; where that is NaN, for all.
template <class Use>
inline void for_maxima(const Tile& t, int64_t r, Use use) {
  const Vec top = broadcast(t.top[r * kPanel]);
  for (int64_t p = 0; p < panels_of(t.regions); ++p)
    for (int part = 0; part < kParts; ++part) {
      const int64_t lanes = p * kPanel + part * kLanes;
      const IVec best = ~(load(t.normed + (p * t.rows + r) * kPanel + part * kLanes) < top);
      if (!any(best)) continue;
      for (int i = 0; i < kLanes && lanes + i < t.regions; ++i)
        if (best[i]) use(lanes + i);
    }
}
template <class Operand, class Use>
inline void for_best(const Worker<Operand>& w, int64_t r, Use use) {
  if (w.scratch.best.count[r] == 1)
    use(w.scratch.best.first[r]);
  else
    for_maxima(w.tile(), r, use);
}

// `use(regions of the image, word, row)` for every word of the bin, rows typed.
template <class Operand, class Use>
inline void for_words_and_regions(const Worker<Operand>& w, Use use) {
  for_words<Operand>(w.problem, *w.bin, [&](const auto* word, int64_t r) {
    use(static_cast<decltype(word)>(w.problem.images.rows) + w.problem.images.starts[w.index] * w.problem.dim, word, r);
  });
}

// best.sum = the sum of the best regions of the word in row `r`
template <class Operand, class Value>
inline void sum_best(const Worker<Operand>& w, const Value* regions, int64_t r) {
  const int64_t dim = w.problem.dim;
  std::memset(w.scratch.best.sum, 0, dim * 4);
  for_best(w, r, [&](int64_t j) { add_row(regions + j * dim, dim, w.scratch.best.sum); });
}

// The first best region of the word in row `r`, and how many there are.
template <class Operand>
inline void locate_best(const Worker<Operand>& w, int64_t r) {
  const Best& best = w.scratch.best;
  best.count[r] = 0;
  for_maxima(w.tile(), r, [&](int64_t j) {
    if (best.count[r]++ == 0) best.first[r] = j;
  });
}

// `use(place in Kept, row)` for every word of the bin.
template <class Operand, class Use>
inline void for_kept(const Worker<Operand>& w, const Kept& kept, Use use) {
  for (int64_t t = 0; t < w.bin->text_count; ++t) {
    const BinText& text = w.bin->texts[t];
    int32_t* regions = kept.regions + w.index * kept.words + w.problem.texts.starts[text.text] - text.begin;
    for (int64_t r = text.begin; r < text.end; ++r) use(regions[r], r);
  }
}

// context = |c| and dot = <c, t> of every word, c being the sum of its best regions.
template <class Operand>
inline void sum_best_directly(const Worker<Operand>& w) {
  const int64_t dim = w.problem.dim;
  for_words_and_regions(w, [&](const auto* regions, const auto* word, int64_t r) {
    sum_best(w, regions, r);
    const float* sum = w.scratch.best.sum;
    alignas(32) double square[kPanel] = {}, dot[kPanel] = {};
    for (int64_t d = 0; d < dim; d += kPanel)
      for (int64_t k = 0; k < kPanel && d + k < dim; ++k) {
        const double c = sum[d + k];
        square[k] += c * c;
        dot[k] += c * widen(word[d + k]);
      }
    w.scratch.sums[r].context = std::sqrt(lane_sum(square));
    w.scratch.sums[r].dot = lane_sum(dot);
  });
}

// The sums of every word, with e = 1 for its best regions, which only backward and the cosine ask for one by one where
// there is no word norm.
template <class Operand>
inline void find_best(const Worker<Operand>& w, bool backward) {
  const Best& best = w.scratch.best;
  const Tile t = w.tile();
  for (int64_t r = 0; r < w.bin->used; ++r) {
    WordSums& word = w.scratch.sums[r] = {1.0, t.top[r * kPanel], 0.0, 0.0, 0.0, false};
    if (!backward && !w.problem.cosine && t.normed == t.affinity) continue;
    locate_best(w, r);
    word.dot = 0.0;
    for_best(w, r, [&](int64_t j) { word.dot += t.affinity[(j / kPanel * t.rows + r) * kPanel + j % kPanel]; });
    word.sum = static_cast<double>(best.count[r]);
  }
  if (w.problem.cosine) sum_best_directly(w);
}

template <class Operand>
inline void keep_best(const Worker<Operand>& w, const Kept& kept) {
  const Best& best = w.scratch.best;
  for_kept(w, kept, [&](int32_t& region, int64_t r) {
    locate_best(w, r);
    region = best.count[r] == 1 ? static_cast<int32_t>(best.first[r]) : kTied;
  });
}

// What `find_best` finds, from what forward kept; false where that is not all. Where the gradient asks for no
// similarity, it stays 0.
template <class Operand>
inline bool recall_best(Worker<Operand>& w, const Kept& kept) {
  if (!kept.regions) return false;
  w.clock.enter(Stage::kContext);
  const Best& best = w.scratch.best;
  bool all = true;
  for_kept(w, kept, [&](int32_t region, int64_t r) {
    best.first[r] = region;
    best.count[r] = 1;
    w.scratch.sums[r] = {1.0, 0.0, 0.0, 0.0, 0.0, false};
    all = all && region != kTied;
  });
  if (all && (w.problem.cosine || gradient_reads_similarities(w.problem))) sum_best_directly(w);
  return all;
}

// dL/dv += alpha t + beta c for the best regions of every word, c being their sum; row after row.
template <class Operand>
inline void best_regions_gradient(const Worker<Operand>& w, const WordGradient* terms, float* grad) {
  const int64_t dim = w.problem.dim;
  for_words_and_regions(w, [&](const auto* regions, const auto* __restrict word, int64_t r) {
    const float alpha = terms[r].alpha, beta = terms[r].beta;
    const float* __restrict sum = w.scratch.best.sum;
    if (w.problem.cosine) sum_best(w, regions, r);
    for_best(w, r, [&](int64_t j) {
      float* __restrict to = grad + j * w.shape.width;
      if (w.problem.cosine)
        for (int64_t d = 0; d < dim; ++d) to[d] += alpha * widen(word[d]) + beta * sum[d];
      else
        for (int64_t d = 0; d < dim; ++d) to[d] += alpha * widen(word[d]);
    });
  });
}

// dL/dt += alpha c, in the C form of the bin.
template <class Operand>
inline void best_words_gradient(const Worker<Operand>& w, const WordGradient* terms, bool accumulate, float* grad) {
  const int64_t dim = w.problem.dim, rows = w.bin->rows;
  if (!accumulate) std::memset(grad, 0, rows * panels_of(dim) * kPanel * 4);
  for_words_and_regions(w, [&](const auto* regions, const auto*, int64_t r) {
    const float alpha = terms[r].alpha;
    for_best(w, r, [&](int64_t j) {
      const auto* __restrict from = regions + j * dim;
      for (int64_t d = 0; d < dim; d += kPanel) {
        float* __restrict to = grad + (d / kPanel * rows + r) * kPanel;
        const int64_t n = dim - d < kPanel ? dim - d : kPanel;
        for (int64_t k = 0; k < n; ++k) to[k] += alpha * widen(from[d + k]);
      }
    });
  });
}

}  // namespace gloria::GLORIA_ISA
