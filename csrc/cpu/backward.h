// Gradients of the scores: affinities and attention are computed again, nothing of their size is kept.
//
// A thread owns an image and walks the bins of texts; the gradient of a region needs no other thread. The gradients of
// the words are summed over the images in the order of the images: each bin has a counter of the images that have added
// to it, and waits its turn. The same inputs therefore give the same bits, whatever the number of threads.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "words.h"

namespace gloria::GLORIA_ISA {

// A thread's sums for its image, and what the gradient products need beside `Scratch`.
template <class Operand>
struct ImageGradient {
  float* regions;      // C form of (dL/dV)^T: rows are the width, columns the regions
  float* gram;         // C form of dL/dG + (dL/dG)^T, upper blocks
  float* flat;         // `regions` transposed back
  Unit* operands;      // a bin's words in whatever form, while they are packed
  Unit* weighted;      // B form of beta e
  double* by_words;    // [regions] coefficient of the words' center in dL/dv: sum ds
  double* by_regions;  // [regions] coefficient of the regions' center: sum (sum e) beta e
  WordGradient* terms;
  float* gram_weight;    // beta of each word; 0 where its context is formed directly
  float* center_weight;  // beta (sum e)
  double* lengthwise;    // coefficient of t in dL/dt of each word, from |t| in the cosine

  ImageGradient(Arena& arena, const Problem& problem, const Bins& bins, const ImageShape<Operand>& largest) {
    constexpr bool rounds = Operand::kValuesPerUnit > 1;
    regions = arena.take<float>(largest.width * largest.rows);
    gram = problem.cosine ? arena.take<float>(largest.gram_size()) : nullptr;
    flat = arena.take<float>(largest.width * largest.rows);
    operands = rounds ? arena.take<Unit>(bins.max_rows * largest.blocks * 16) : nullptr;
    weighted = rounds && problem.cosine ? arena.take<Unit>(bins.max_rows * largest.rows / 2) : nullptr;
    by_words = arena.take<double>(largest.rows);
    by_regions = arena.take<double>(largest.rows);
    terms = arena.take<WordGradient>(bins.max_rows);
    gram_weight = arena.take<float>(bins.max_rows);
    center_weight = arena.take<float>(bins.max_rows);
    lengthwise = arena.take<double>(bins.max_rows);
  }
};

// The sums over the images, in the order of the bins.
struct WordSum {
  float* gradient;     // C forms, one a bin
  double* lengthwise;  // [rows of all bins]
  int64_t* images;     // how many images each bin has taken in
};

template <class Operand>
inline void word_gradients(const Problem& problem, int64_t index, const Bin& bin, const Scratch<Operand>& scratch,
                           const double* norms, const float* grad_scores, const ImageGradient<Operand>& out) {
  for (int64_t r = bin.used; r < bin.rows; ++r) out.gram_weight[r] = 0.0f, out.center_weight[r] = 0.0f;
  for (int64_t t = 0; t < bin.text_count; ++t) {
    const BinText& text = bin.texts[t];
    for (int64_t r = text.begin; r < text.end; ++r)
      scratch.similarity[r] = word_similarity(problem, scratch.sums[r], norms[bin.offset + r]);
    pool_weights(problem, scratch.similarity + text.begin, text.end - text.begin, scratch.weights + text.begin);
    const float upstream = grad_scores[index * problem.texts.count + text.text];
    for (int64_t r = text.begin; r < text.end; ++r) {
      const WordSums& w = scratch.sums[r];
      const double norm = norms[bin.offset + r], u = scratch.similarity[r], du = upstream * scratch.weights[r];
      double alpha = du / w.sum, beta = 0.0;
      out.lengthwise[r] = 0.0;
      if (problem.cosine && cosine_is_clamped(w, norm)) {
        alpha /= kCosineEpsilon;
      } else if (problem.cosine) {
        alpha = du / (w.context * norm);
        beta = -du * u / (w.context * w.context);
        out.lengthwise[r] = -du * u / (norm * norm);
      }
      out.terms[r] = {static_cast<float>(alpha), static_cast<float>(beta), static_cast<float>(w.mean_s),
                      static_cast<float>(w.mean_h), 0.0f};
      out.terms[r].rest =
          static_cast<float>(alpha * (w.mean_s - out.terms[r].mean_s) + beta * (w.mean_h - out.terms[r].mean_h));
      out.gram_weight[r] = w.direct ? 0.0f : out.terms[r].beta;
      out.center_weight[r] = static_cast<float>(out.terms[r].beta * w.sum);
    }
  }
}

template <class Operand, bool cosine>
inline void affinity_gradient_of(const Problem& problem, const Tile& tile, const WordGradient* terms, float* spread,
                                 double* columns) {
  constexpr bool totals = cosine && kCenters<Operand>;
  switch (problem.word_norm) {
    case WordNorm::kNone:
      return affinity_gradient<WordNorm::kNone, cosine, totals>(problem, tile, terms, spread, columns);
    case WordNorm::kSoftmax:
      return affinity_gradient<WordNorm::kSoftmax, cosine, totals>(problem, tile, terms, spread, columns);
    case WordNorm::kClippedL2:
      return affinity_gradient<WordNorm::kClippedL2, cosine, totals>(problem, tile, terms, spread, columns);
  }
}

// out = weight e, row by row, and `by_regions`. Rows that hold no word have e = 0.
template <class Operand>
inline void weight_attention(const Tile& tile, const ImageGradient<Operand>& sums, float* out) {
  for (int64_t p = 0; p < panels_of(tile.regions); ++p)
    for (int part = 0; part < kParts; ++part) {
      const int64_t lanes = p * kPanel + part * kLanes;
      LongSum total;
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t at = (p * tile.rows + r) * kPanel + part * kLanes;
        const Vec e = load(tile.attention + at);
        if constexpr (kCenters<Operand>) total.add(r, e * sums.center_weight[r]);
        store(out + at, e * sums.gram_weight[r]);
      }
      if constexpr (kCenters<Operand>) total.add_to(sums.by_regions + lanes);
    }
}

// What the norm of the context gives back: through the Gram matrix, or straight to the regions.
template <class Operand>
inline void context_gradient(const Problem& problem, int64_t index, const Bin& bin, const ImageShape<Operand>& shape,
                             const Image<Operand>& image, const Tile& tile, const Scratch<Operand>& scratch,
                             const ImageGradient<Operand>& out) {
  float* weighted_values = scratch.affinity;  // s is no longer needed
  weight_attention(tile, out, weighted_values);
  const int64_t alloc = bin.rows / Operand::kValuesPerUnit, words = units_of<Operand>(bin.used);
  const Unit* weighted = to_right(Operand{}, weighted_values, bin.rows, shape.panels, out.weighted);
  if (use_gram(problem, shape.regions)) {
    const Unit* attention = to_right(Operand{}, scratch.attention, bin.rows, shape.panels, scratch.right);
    product<Operand>({weighted, alloc, true}, {attention, alloc}, {out.gram, shape.rows, true}, shape.panels * kPanel,
                     shape.panels, words, Extent::kUpperRows);
    if (scratch.direct.any())
      direct_gradient(problem, index, bin, shape, image, scratch.attention, scratch.sums, out.terms, scratch.direct,
                      out.regions);
  } else {
    const int64_t dim_panels = panels_of(problem.dim);
    center_contexts(shape, image, bin.rows, bin.used, [&](int64_t r) { return scratch.sums[r].sum; }, scratch.context);
    const Unit* context = to_right(Operand{}, scratch.context, bin.rows, dim_panels, scratch.right);
    product<Operand>({context, alloc, true}, {weighted, alloc}, {out.regions, shape.width, true}, dim_panels * kPanel,
                     shape.panels, words);
  }
}

template <class Operand>
inline void bin_gradient(const Problem& problem, int64_t index, int64_t bin_index, const Bins& bins,
                         const ImageShape<Operand>& shape, const WordOperands& words, const Image<Operand>& image,
                         const Scratch<Operand>& scratch, const double* norms, const float* grad_scores,
                         const ImageGradient<Operand>& out, const WordSum& total, Member& member, StageClock& clock) {
  const Bin& bin = bins.bins[bin_index];
  attention_of(problem, bin, words, shape, image, scratch, clock);
  clock.enter(Stage::kContext);
  sum_words(problem, index, bin, shape, image, scratch, true);
  clock.enter(Stage::kPool);
  word_gradients(problem, index, bin, scratch, norms, grad_scores, out);
  clock.enter(Stage::kGradient);
  const Tile tile = tile_of(scratch, bin, shape.regions);
  if (problem.cosine)
    affinity_gradient_of<Operand, true>(problem, tile, out.terms, scratch.spread, out.by_words);
  else
    affinity_gradient_of<Operand, false>(problem, tile, out.terms, scratch.spread, out.by_words);
  clear_padding(scratch.spread, bin, shape.panels);
  clock.enter(Stage::kGradGram);
  if (problem.cosine) context_gradient(problem, index, bin, shape, image, tile, scratch, out);

  // dV^T += T^T ds, then in turn dT += ds V.
  clock.enter(Stage::kGradRegions);
  const int64_t dim_panels = panels_of(problem.dim);
  const Unit* gradient = to_right(Operand{}, scratch.spread, bin.rows, shape.panels, scratch.right);
  product<Operand>(words.down, {gradient, bin.rows / Operand::kValuesPerUnit}, {out.regions, shape.width, true},
                   dim_panels * kPanel, shape.panels, units_of<Operand>(bin.used));
  gradient = to_left(Operand{}, scratch.spread, bin.rows, shape.panels, scratch.left);
  clock.enter(Stage::kWait);
  member.wait_until([&] { return __atomic_load_n(total.images + bin_index, __ATOMIC_ACQUIRE) == index; });
  if (member.stopped()) return;
  clock.enter(Stage::kGradWords);
  product<Operand>({gradient, bin.rows, false}, {image.down, shape.rows / Operand::kValuesPerUnit},
                   {total.gradient + bin.offset * dim_panels * kPanel, bin.rows, index > 0}, bin.rows, dim_panels,
                   units_of<Operand>(shape.regions));
  for (int64_t r = 0; r < bin.used; ++r)
    total.lengthwise[bin.offset + r] = (index > 0 ? total.lengthwise[bin.offset + r] : 0.0) + out.lengthwise[r];
  __atomic_store_n(total.images + bin_index, index + 1, __ATOMIC_RELEASE);
}

// row[d] = the chunks' value + more(d)
template <class Value, class More>
inline void write_row(const float* chunks, int64_t stride, int64_t dim, Value* row, More more) {
  const auto write = [&](int64_t d, int64_t count) {
    for (int64_t i = 0; i < count; ++i) narrow(static_cast<float>(chunks[i] + more(d + i)), row + d + i);
    chunks += stride;
  };
  int64_t d = 0;
  for (; d + kPanel <= dim; d += kPanel) write(d, kPanel);
  if (d < dim) write(d, dim - d);
}

// dL/dt = sum ds V + lengthwise t, into the row of `grad` that belongs to the word.
template <class Operand>
inline void write_words(const Problem& problem, const Bin& bin, const WordSum& total, void* grad) {
  const int64_t stride = bin.rows * kPanel;
  for_words<Operand>(problem, bin, [&](const auto* row, int64_t r) {
    using Value = std::remove_const_t<std::remove_pointer_t<decltype(row)>>;
    const float* sum = total.gradient + bin.offset * panels_of(problem.dim) * kPanel + r * kPanel;
    const double lengthwise = total.lengthwise[bin.offset + r];
    write_row(sum, stride, problem.dim,
              static_cast<Value*>(grad) + (row - static_cast<const Value*>(problem.texts.rows)),
              [&](int64_t d) { return lengthwise * widen(row[d]); });
  });
}

template <class Operand>
inline void image_gradient(const Problem& problem, int64_t index, const Bins& bins, const WordOperands* words,
                           const WordPack<Operand>& pack, const Image<Operand>& image, const Scratch<Operand>& scratch,
                           const double* norms, const Gradients& gradients, const ImageGradient<Operand>& sums,
                           const WordSum& total, const float* word_center, Member& member, StageClock& clock) {
  const ImageShape<Operand> shape(problem.images.lengths[index], problem.dim);
  prepare_image(problem, index, true, image, clock);
  std::memset(sums.regions, 0, shape.width * shape.panels * kPanel * 4);
  if (problem.cosine) std::memset(sums.gram, 0, shape.gram_size() * 4);
  for (double* coefficients : {sums.by_words, sums.by_regions}) std::memset(coefficients, 0, shape.rows * 8);
  for (int64_t b = 0; b < bins.count; ++b) {
    if (member.stopped()) return;
    clock.enter(Stage::kPack);
    const WordOperands packed = words ? words[b] : pack.pack(problem, bins.bins[b], 0, sums.operands);
    bin_gradient(problem, index, b, bins, shape, packed, image, scratch, norms, gradients.scores, sums, total, member,
                 clock);
  }
  clock.enter(Stage::kGradGram);
  if (use_gram(problem, shape.regions)) {
    mirror(sums.gram, shape.rows, shape.panels);
    const Unit* gram = to_right(Operand{}, sums.gram, shape.rows, shape.panels, image.gram);
    const int64_t alloc = shape.rows / Operand::kValuesPerUnit;
    const Left regions = kCenters<Operand> ? Left{image.across, shape.width, false} : Left{image.down, alloc, true};
    product<Operand>(regions, {gram, alloc}, {sums.regions, shape.width, true}, panels_of(problem.dim) * kPanel,
                     shape.panels, units_of<Operand>(shape.regions));
  }
  clock.enter(Stage::kPack);
  transpose_blocks(reinterpret_cast<const Unit*>(sums.regions), shape.panels, shape.width,
                   reinterpret_cast<Unit*>(sums.flat));
  with_typed<Operand>(problem.dtype, gradients.regions, [&](const auto* typed) {
    using Value = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    Value* rows = static_cast<Value*>(gradients.regions) + problem.images.starts[index] * problem.dim;
    for (int64_t r = 0; r < shape.regions; ++r) {
      const double by_words = sums.by_words[r], by_regions = sums.by_regions[r];
      const auto write = [&](auto more) {
        write_row(sums.flat + r * kPanel, shape.panels * kPanel * kPanel, problem.dim, rows + r * problem.dim, more);
      };
      if (word_center)
        write([=, center = image.center](int64_t d) { return by_words * word_center[d] + by_regions * center[d]; });
      else
        write([](int64_t) { return 0.0f; });
    }
  });
  clock.enter(Stage::kWait);
}

// False if it was interrupted.
template <class Operand>
bool backward(const Problem& problem, const Bins& bins, const Gradients& gradients) {
  const ImageShape<Operand> largest(longest(problem.images), problem.dim);
  const bool direct = any_direct(problem), packed_once = bins_together<Operand>(problem, bins, 0, true) == bins.count;
  const Buffers center_buffer("the mean word", 1, largest.width * 4);
  float* word_center = kCenters<Operand> && problem.cosine ? reinterpret_cast<float*>(center_buffer[0]) : nullptr;
  if (word_center) find_word_center<Operand>(problem, bins, word_center);
  Arena measure;
  const auto layout = [&](Arena& arena, auto&& use) {
    const Image<Operand> image(arena, problem, largest, true, direct);
    const Scratch<Operand> scratch(arena, problem, bins, largest, direct, true);
    const ImageGradient<Operand> sums(arena, problem, bins, largest);
    const WordPack<Operand> pack(arena, problem.dim, packed_once ? 0 : bins.max_rows, true, word_center);
    use(image, scratch, sums, pack);
  };
  layout(measure, [](auto&&...) {});
  const int64_t threads = problem.threads < problem.images.count ? problem.threads : problem.images.count;
  Arena words_size;
  WordPack<Operand>(words_size, problem.dim, packed_once ? bins.rows : 0, true, word_center);
  const Buffers buffers("the images and tiles of each thread", threads, measure.used()),
      words_buffer("packed words", 1, words_size.used()), norms_buffer("the lengths of words", 1, bins.rows * 8),
      lengthwise("the coefficients of words", 1, bins.rows * 8), turns("the turns of bins", 1, bins.count * 8),
      sum_buffer("the sums of word gradients", 1, bins.rows * panels_of(problem.dim) * kPanel * 4);
  double* norms = reinterpret_cast<double*>(norms_buffer[0]);
  const WordSum total{reinterpret_cast<float*>(sum_buffer[0]), reinterpret_cast<double*>(lengthwise[0]),
                      reinterpret_cast<int64_t*>(turns[0])};
  std::memset(total.images, 0, bins.count * 8);
  Arena words_memory(words_buffer[0]);
  const WordPack<Operand> common(words_memory, problem.dim, packed_once ? bins.rows : 0, true, word_center);
  std::vector<WordOperands> words(bins.count);

  return parallel(threads, problem.interrupted, [&](Member member) {
    StageClock clock(problem.stage_nanoseconds);
    Arena arena(buffers[member.index]);
    layout(arena, [&](const auto& image, const auto& scratch, const auto& sums, const auto& pack) {
      clock.enter(Stage::kPack);
      member.share(bins.count, [&](int64_t b) {
        word_norms<Operand>(problem, bins.bins[b], norms);
        if (packed_once) words[b] = common.pack(problem, bins.bins[b], bins.bins[b].offset, sums.operands);
      });
      // In rising order, so that the image whose turn it is always belongs to a running thread.
      member.share(problem.images.count, [&](int64_t i) {
        image_gradient(problem, i, bins, packed_once ? words.data() : nullptr, pack, image, scratch, norms, gradients,
                       sums, total, word_center, member, clock);
      });
      clock.enter(Stage::kPack);
      member.share(bins.count, [&](int64_t b) { write_words<Operand>(problem, bins.bins[b], total, gradients.words); });
    });
    clock.add_to(problem.stage_nanoseconds);
  });
}

}  // namespace gloria::GLORIA_ISA
