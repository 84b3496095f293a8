// Gradients of the scores: affinities and attention are computed again, nothing of their size is kept.
//
// A thread owns an image and walks the bins of texts; the gradient of a region needs no other thread. The gradients of
// the words are summed over the images in the order of the images: each bin has a counter of the images that have added
// to it, and waits its turn. The same inputs therefore give the same bits, whatever the number of threads.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

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
  double* by_words;    // [regions] coefficient of the words' center in dL/dv: sum ds |t|
  double* by_regions;  // [regions] coefficient of the regions' center: sum (sum e) beta e
  double* level;       // [width] what every region gets of the words whose attention may be flat; null for the cosine
  WordGradient* terms;
  float* gram_weight;    // beta of each word; 0 where its context is formed directly
  float* center_weight;  // beta (sum e)
  double* lengthwise;    // coefficient of t in dL/dt of each word, from |t| in the cosine
  double* word_weights;  // dL/dw of each word; null where there are none
  double* scales;        // dL / d attention_scale, dL / d word_scale

  ImageGradient(Arena& arena, const Problem& problem, const Bins& bins) {
    const ImageShape<Operand> largest(longest(problem.images), problem.dim);
    constexpr bool rounds = Operand::kValuesPerUnit > 1;
    const bool dense = !is_hard(problem);
    regions = dense ? arena.take<float>(largest.width * largest.rows) : nullptr;
    gram = dense && problem.cosine ? arena.take<float>(largest.gram_size()) : nullptr;
    flat = arena.take<float>(largest.width * largest.rows);
    operands = rounds ? arena.take<Unit>(bins.max_rows * largest.blocks * 16) : nullptr;
    weighted = dense && rounds && problem.cosine ? arena.take<Unit>(bins.max_rows * largest.rows / 2) : nullptr;
    by_words = arena.take<double>(largest.rows);
    by_regions = arena.take<double>(largest.rows);
    level = dense && !problem.cosine ? arena.take<double>(largest.width) : nullptr;
    terms = arena.take<WordGradient>(bins.max_rows);
    gram_weight = arena.take<float>(bins.max_rows);
    center_weight = arena.take<float>(bins.max_rows);
    lengthwise = arena.take<double>(bins.max_rows);
    word_weights = problem.word_weights ? arena.take<double>(bins.max_rows) : nullptr;
    scales = arena.take<double>(2);
  }
};

// The sums over the images, in the order of the bins.
struct WordSum {
  float* gradient;       // C forms, one a bin
  double* lengthwise;    // [rows of all bins]
  double* word_weights;  // [rows of all bins]; null where there are none
  double* scales;        // those of each image
  int64_t* images;       // how many images each bin has taken in

  WordSum(Arena& arena, const Problem& problem, const Bins& bins) {
    gradient = arena.take<float>(bins.rows * panels_of(problem.dim) * kPanel);
    lengthwise = arena.take<double>(bins.rows);
    word_weights = problem.word_weights ? arena.take<double>(bins.rows) : nullptr;
    scales = arena.take<double>(2 * problem.images.count);
    images = arena.take<int64_t>(bins.count);
  }
};

// What the threads have in common.
struct Common {
  const Bins& bins;
  const Gradients& gradients;
  const double* norms;
  const float* word_center;  // null unless `Operand` centers
  bool words_centered;
  const WordSum& total;
};

// Of a word whose e has this sum at most, beside a greatest one of 1, one region has nearly all attention.
constexpr double kOneRegion = 1.125;

// The coefficients of every word in the gradients, from its similarity.
template <class Operand>
inline void word_gradients(Worker<Operand>& w, const Common& common, const ImageGradient<Operand>& out) {
  const Problem& problem = w.problem;
  const Bin& bin = *w.bin;
  const double* similarity = w.scratch.similarity;
  const bool refines = !is_hard(problem) && !problem.smooth_max, by_maximum = !is_bounded(problem);
  for (int64_t r = bin.used; r < bin.rows; ++r) out.gram_weight[r] = 0.0f, out.center_weight[r] = 0.0f;
  for (int64_t t = 0; t < bin.text_count; ++t) {
    const BinText& text = bin.texts[t];
    const float upstream = common.gradients.scores[w.index * problem.texts.count + text.text];
    out.scales[1] += upstream * pool_gradient(problem, words_of(problem, text.text, similarity + text.begin),
                                              w.scratch.weights + text.begin,
                                              out.word_weights ? out.word_weights + text.begin : nullptr);
    for (int64_t r = text.begin; r < text.end; ++r) {
      const WordSums& word = w.scratch.sums[r];
      const double norm = common.norms[bin.offset + r], u = similarity[r], du = upstream * w.scratch.weights[r];
      if (out.word_weights) out.word_weights[r] *= upstream;
      if (problem.smooth_max) out.scales[0] += du * (word.mean_s - u) / problem.attention_scale;
      double alpha = du / word.sum, beta = 0.0;
      out.lengthwise[r] = 0.0;
      if (problem.cosine && cosine_is_clamped(word, norm)) {
        alpha /= kCosineEpsilon;
      } else if (problem.cosine) {
        alpha = du / (word.context * norm);
        beta = -du * u / (word.context * word.context);
        out.lengthwise[r] = -du * u / (norm * norm);
      }
      WordGradient& term = out.terms[r] = {static_cast<float>(alpha),
                                           static_cast<float>(beta),
                                           static_cast<float>(word.mean_s),
                                           static_cast<float>(word.mean_h),
                                           0.0f,
                                           word.level,
                                           static_cast<float>(norm)};
      term.rest = static_cast<float>(alpha * (word.mean_s - term.mean_s) + beta * (word.mean_h - term.mean_h));
      // Where one region has nearly all attention, nearly nothing goes back through it: the means, whose sums are
      // float32, have too few digits for that.
      if (refines && (w.shape.regions == 1 || (by_maximum && word.sum < kOneRegion)))
        term.rest +=
            static_cast<float>(left_over(w.tile(), term, problem.cosine ? w.scratch.spread : nullptr, r) / word.sum);
      out.gram_weight[r] = word.direct ? 0.0f : term.beta;
      out.center_weight[r] = static_cast<float>(term.beta * word.sum);
    }
  }
}

template <class Operand, bool cosine, bool totals>
inline void affinity_gradient_of(const Worker<Operand>& w, const Common& common, const ImageGradient<Operand>& out) {
  const auto find = [&](auto gradient, auto of_scale) {
    if (common.gradients.attention_scale && !w.problem.smooth_max)
      out.scales[0] += of_scale(w.tile(), out.terms, w.scratch.spread);
    gradient(w.problem, w.tile(), out.terms, w.scratch.spread, out.by_words);
    clear_padding(w.scratch.spread, *w.bin, w.shape.panels);
  };
  switch (w.problem.word_norm) {
    case WordNorm::kNone:
      return find(affinity_gradient<WordNorm::kNone, cosine, totals>, scale_gradient<WordNorm::kNone, cosine>);
    case WordNorm::kSoftmax:
      return find(affinity_gradient<WordNorm::kSoftmax, cosine, totals>, scale_gradient<WordNorm::kSoftmax, cosine>);
    case WordNorm::kClippedL2:
      return find(affinity_gradient<WordNorm::kClippedL2, cosine, totals>,
                  scale_gradient<WordNorm::kClippedL2, cosine>);
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
inline void context_gradient(const Worker<Operand>& w, const ImageGradient<Operand>& out) {
  const Scratch<Operand>& scratch = w.scratch;
  float* weighted_values = scratch.affinity;  // s is no longer needed
  weight_attention(w.tile(), out, weighted_values);
  const int64_t rows = w.bin->rows, alloc = rows / Operand::kValuesPerUnit, words = units_of<Operand>(w.bin->used),
                panels = w.shape.panels, dim_panels = panels_of(w.problem.dim);
  const Unit* weighted = to_right(Operand{}, weighted_values, rows, panels, out.weighted);
  if (use_gram(w.problem, w.shape.regions)) {
    const Unit* attention = to_right(Operand{}, scratch.attention, rows, panels, scratch.right);
    product<Operand>({weighted, alloc, true}, {attention, alloc}, {out.gram, w.shape.rows, true}, panels * kPanel,
                     panels, words, Extent::kUpperRows);
    if (scratch.direct.any()) direct_gradient(w, out.terms, out.regions);
  } else {
    center_contexts(w, rows, w.bin->used, [](int64_t r) { return r; }, scratch.context);
    const Unit* context = to_right(Operand{}, scratch.context, rows, dim_panels, scratch.right);
    product<Operand>({context, alloc, true}, {weighted, alloc}, {out.regions, w.shape.width, true}, dim_panels * kPanel,
                     panels, words);
  }
}

// dV^T += T^T ds, then in turn dT += ds V, where ds is in `spread`; of a hard maximum, the rows of the best regions.
template <class Operand>
inline void add_products(Worker<Operand>& w, int64_t bin_index, const WordSum& total,
                         const ImageGradient<Operand>& out) {
  const int64_t rows = w.bin->rows, offset = w.bin->offset, panels = w.shape.panels,
                dim_panels = panels_of(w.problem.dim);
  const bool dense = !is_hard(w.problem);
  const Unit* gradient = nullptr;
  w.clock.enter(Stage::kGradRegions);
  if (dense) {
    gradient = to_right(Operand{}, w.scratch.spread, rows, panels, w.scratch.right);
    product<Operand>(w.words.down, {gradient, rows / Operand::kValuesPerUnit}, {out.regions, w.shape.width, true},
                     dim_panels * kPanel, panels, units_of<Operand>(w.bin->used));
    if (out.level) add_level_of_words(w, out.terms, out.level);
    gradient = to_left(Operand{}, w.scratch.spread, rows, panels, w.scratch.left);
  } else {
    best_regions_gradient(w, out.terms, out.flat);
  }
  w.clock.enter(Stage::kWait);
  w.member.wait_until([&] { return __atomic_load_n(total.images + bin_index, __ATOMIC_ACQUIRE) == w.index; });
  if (w.member.stopped()) return;
  w.clock.enter(Stage::kGradWords);
  const bool further = w.index > 0;
  float* sum = total.gradient + offset * dim_panels * kPanel;
  if (dense)
    product<Operand>({gradient, rows, false}, {w.image.down, w.shape.rows / Operand::kValuesPerUnit},
                     {sum, rows, further}, rows, dim_panels, units_of<Operand>(w.shape.regions));
  else
    best_words_gradient(w, out.terms, further, sum);
  if (out.level) add_level_of_regions(w, out.terms, sum);
  const auto add = [&](const double* parts, double* sums) {
    for (int64_t r = 0; r < w.bin->used; ++r) sums[offset + r] = (further ? sums[offset + r] : 0.0) + parts[r];
  };
  add(out.lengthwise, total.lengthwise);
  if (total.word_weights) add(out.word_weights, total.word_weights);
  __atomic_store_n(total.images + bin_index, w.index + 1, __ATOMIC_RELEASE);
}

template <class Operand>
inline void bin_gradient(Worker<Operand>& w, int64_t bin_index, const Common& common,
                         const ImageGradient<Operand>& out) {
  if (!recall_best(w, common.gradients.best)) {
    find_attention(w);
    sum_words(w, true);
  }
  find_similarities(w, common.norms);
  word_gradients(w, common, out);
  if (!is_hard(w.problem)) {
    w.clock.enter(Stage::kGradient);
    if (!w.problem.cosine)
      affinity_gradient_of<Operand, false, false>(w, common, out);
    else if (common.words_centered)
      affinity_gradient_of<Operand, true, kCenters<Operand>>(w, common, out);
    else
      affinity_gradient_of<Operand, true, false>(w, common, out);
    w.clock.enter(Stage::kGradGram);
    if (w.problem.cosine) context_gradient(w, out);
  }
  add_products(w, bin_index, common.total, out);
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

// dL/dt = sum ds V + lengthwise t, and dL/dw, into the rows that belong to the words.
template <class Operand>
inline void write_words(const Problem& problem, const Bin& bin, const WordSum& total, const Gradients& gradients) {
  const int64_t stride = bin.rows * kPanel;
  for_words<Operand>(problem, bin, [&](const auto* row, int64_t r) {
    using Value = std::remove_const_t<std::remove_pointer_t<decltype(row)>>;
    const int64_t at = row - static_cast<const Value*>(problem.texts.rows);
    const float* sum = total.gradient + bin.offset * panels_of(problem.dim) * kPanel + r * kPanel;
    const double lengthwise = total.lengthwise[bin.offset + r];
    write_row(sum, stride, problem.dim, static_cast<Value*>(gradients.words) + at,
              [&](int64_t d) { return lengthwise * widen(row[d]); });
    if (gradients.word_weights)
      gradients.word_weights[at / problem.dim] = static_cast<float>(total.word_weights[bin.offset + r]);
  });
}

// (dL/dV)^T += V^T (dL/dG + (dL/dG)^T)
template <class Operand>
inline void gram_gradient(const Worker<Operand>& w, const ImageGradient<Operand>& sums) {
  const ImageShape<Operand>& shape = w.shape;
  mirror(sums.gram, shape.rows, shape.panels);
  const Unit* gram = to_right(Operand{}, sums.gram, shape.rows, shape.panels, w.image.gram);
  const int64_t alloc = shape.rows / Operand::kValuesPerUnit;
  const Left regions = kCenters<Operand> ? Left{w.image.across, shape.width, false} : Left{w.image.down, alloc, true};
  product<Operand>(regions, {gram, alloc}, {sums.regions, shape.width, true}, panels_of(w.problem.dim) * kPanel,
                   shape.panels, units_of<Operand>(shape.regions));
}

// dL/dV = its sums + by_words (center of the words) + by_regions (center of the regions), or + `level`, into the
// image's rows.
template <class Operand>
inline void write_regions(const Worker<Operand>& w, const Common& common, const ImageGradient<Operand>& sums) {
  const ImageShape<Operand>& shape = w.shape;
  const int64_t dim = w.problem.dim;
  const bool dense = !is_hard(w.problem);
  if (dense)
    transpose_blocks(reinterpret_cast<const Unit*>(sums.regions), shape.panels, shape.width,
                     reinterpret_cast<Unit*>(sums.flat));
  // From row to row, and from 16 values of one to the next: blocks of 16 rows, or row after row.
  const int64_t row_step = dense ? kPanel : shape.width, chunk_step = dense ? shape.panels * kPanel * kPanel : kPanel;
  with_typed<Operand>(w.problem.dtype, common.gradients.regions, [&](const auto* typed) {
    using Value = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    Value* rows = static_cast<Value*>(common.gradients.regions) + w.problem.images.starts[w.index] * dim;
    for (int64_t r = 0; r < shape.regions; ++r) {
      const double by_words = sums.by_words[r], by_regions = sums.by_regions[r];
      const auto write = [&](auto more) { write_row(sums.flat + r * row_step, chunk_step, dim, rows + r * dim, more); };
      if (common.word_center)
        write([=, center = w.image.center, word_center = common.word_center](int64_t d) {
          return by_words * word_center[d] + by_regions * center[d];
        });
      else if (sums.level)
        write([level = sums.level](int64_t d) { return level[d]; });
      else
        write([](int64_t) { return 0.0f; });
    }
  });
}

// `operands_of(bin)` are the words of a bin, packed.
template <class Operand, class OperandsOf>
inline void image_gradient(Worker<Operand>& w, const Common& common, const ImageGradient<Operand>& sums,
                           OperandsOf operands_of) {
  const ImageShape<Operand>& shape = w.shape;
  const bool dense = !is_hard(w.problem);
  prepare_image(w.problem, w.index, dense, w.image, w.clock);
  std::memset(dense ? sums.regions : sums.flat, 0, shape.width * shape.panels * kPanel * 4);
  sums.scales[0] = sums.scales[1] = 0.0;
  if (sums.gram) std::memset(sums.gram, 0, shape.gram_size() * 4);
  if (sums.level) std::memset(sums.level, 0, shape.width * 8);
  for (double* coefficients : {sums.by_words, sums.by_regions}) std::memset(coefficients, 0, shape.rows * 8);
  for (int64_t b = 0; b < common.bins.count; ++b) {
    if (w.member.stopped()) return;
    w.clock.enter(Stage::kPack);
    w.take_bin(common.bins.bins[b], operands_of(b));
    bin_gradient(w, b, common, sums);
  }
  std::memcpy(common.total.scales + 2 * w.index, sums.scales, 2 * 8);
  w.clock.enter(Stage::kGradGram);
  if (use_gram(w.problem, shape.regions)) gram_gradient(w, sums);
  w.clock.enter(Stage::kPack);
  write_regions(w, common, sums);
  w.clock.enter(Stage::kWait);
}

// False if it was interrupted.
template <class Operand>
bool backward(const Problem& problem, const Bins& bins, const Gradients& gradients) {
  const bool dense = !is_hard(problem), packed_once = bins_together<Operand>(problem, bins, 0, dense) == bins.count;
  const int64_t threads = std::min<int64_t>(problem.threads, problem.images.count);
  const Layouts norms_of("the lengths of words", 1, [&](Arena& arena) { return arena.take<double>(bins.rows); });
  double* norms = norms_of[0];
  for (int64_t b = 0; b < bins.count; ++b) word_norms<Operand>(problem, bins.bins[b], norms);
  const Layouts centers("the mean word", 1,
                        [&](Arena& arena) { return arena.take<float>(padded<Operand>(problem.dim)); });
  float* word_center = kCenters<Operand> && problem.cosine && dense ? centers[0] : nullptr;
  const bool words_centered = word_center && find_word_center<Operand>(problem, bins, norms, word_center);
  const auto pack_of = [&](Arena& arena, int64_t rows) {
    return WordPack<Operand>(arena, problem.dim, rows, dense, words_centered ? word_center : nullptr, norms);
  };
  const Layouts image_of("the images of each thread", threads,
                         [&](Arena& arena) { return Image<Operand>(arena, problem, dense); });
  const Layouts scratch_of("the tiles of each thread", threads,
                           [&](Arena& arena) { return Scratch<Operand>(arena, problem, bins, dense); });
  const Layouts sums_of("the gradients of each thread", threads,
                        [&](Arena& arena) { return ImageGradient<Operand>(arena, problem, bins); });
  const Layouts packs("packed words", packed_once ? 1 : threads,
                      [&](Arena& arena) { return pack_of(arena, packed_once ? bins.rows : bins.max_rows); });
  const Layouts totals("the sums of word gradients", 1, [&](Arena& arena) { return WordSum(arena, problem, bins); });
  const WordSum total = totals[0];
  const Common common{bins, gradients, norms, word_center, words_centered, total};
  std::memset(total.images, 0, bins.count * 8);
  std::vector<WordOperands> words(bins.count);

  const bool finished = parallel(threads, problem.interrupted, [&](Member member) {
    Worker<Operand> w{problem, member, scratch_of[member.index]};
    const ImageGradient<Operand> sums = sums_of[member.index];
    const Image<Operand> image = image_of[member.index];
    const WordPack<Operand> pack = packs[packed_once ? 0 : member.index];
    const auto packed = [&](int64_t b) {
      return pack.pack(problem, bins.bins[b], packed_once ? bins.bins[b].offset : 0, sums.operands);
    };
    w.clock.enter(Stage::kPack);
    if (packed_once) w.member.share(bins.count, [&](int64_t b) { words[b] = packed(b); });
    // In rising order, so that the image whose turn it is always belongs to a running thread.
    w.member.share(problem.images.count, [&](int64_t i) {
      w.take_image(i, image);
      image_gradient(w, common, sums, [&](int64_t b) { return packed_once ? words[b] : packed(b); });
    });
    w.clock.enter(Stage::kPack);
    w.member.share(bins.count, [&](int64_t b) { write_words<Operand>(problem, bins.bins[b], total, gradients); });
    w.clock.add_to(problem.stage_nanoseconds);
  });
  double sums[2] = {};
  for (int64_t i = 0; finished && i < 2 * problem.images.count; ++i) sums[i % 2] += total.scales[i];
  if (gradients.attention_scale) *gradients.attention_scale = sums[0];
  if (gradients.word_scale) *gradients.word_scale = sums[1];
  return finished;
}

}  // namespace gloria::GLORIA_ISA
