// Scores of every image with every text: an image is packed once for all texts, and its tiles never leave the cache.
#pragma once

#include "parallel.h"
#include "words.h"

namespace gloria::GLORIA_ISA {

template <class Operand>
inline void score_bin(const Problem& problem, int64_t index, const Bin& bin, const Image<Operand>& image, const Scratch<Operand>& scratch,
                      const double* norms, float* scores) {
  const ImageShape<Operand> shape(problem.images.lengths[index], problem.dim);
  pack_bin<Operand>(problem, bin, scratch.words);
  attention_of(problem, bin, shape, image, scratch);
  if (problem.cosine) context_norms(problem, bin, shape, image, scratch, false);
  for (int64_t r = 0; r < bin.used; ++r)
    scratch.similarity[r] = word_similarity(problem, word_sums(problem, scratch, r), norms[bin.offset + r]);
  for (int64_t t = 0; t < bin.text_count; ++t) {
    const BinText& text = bin.texts[t];
    scores[index * problem.texts.count + text.text] = pool_score(problem, scratch.similarity + text.begin, text.end - text.begin);
  }
}

template <class Operand>
void forward(const Problem& problem, const Bins& bins, float* scores) {
  const ImageShape<Operand> largest(longest(problem.images), problem.dim);
  const bool direct = any_direct(problem);
  // `group` images are ready at a time, so that the threads share both many images and many texts.
  const int64_t group = problem.threads < problem.images.count ? problem.threads : problem.images.count;
  Arena image_size, scratch_size;
  Image<Operand>(image_size, problem, largest, direct);
  Scratch<Operand>(scratch_size, problem, bins, largest, direct, false);
  const Buffers images(group, image_size.used()), scratches(problem.threads, scratch_size.used()), norms_buffer(1, bins.rows * 8);
  double* norms = reinterpret_cast<double*>(norms_buffer[0]);

  parallel(problem.threads, [&](Member member) {
    Arena arena(scratches[member.index]);
    const Scratch<Operand> scratch(arena, problem, bins, largest, direct, false);
    const auto image_at = [&](int64_t slot) {
      Arena memory(images[slot]);
      return Image<Operand>(memory, problem, largest, direct);
    };
    member.share(bins.count, [&](int64_t b) { word_norms<Operand>(problem, bins.bins[b], norms); });

    for (int64_t first = 0; first < problem.images.count; first += group) {
      const int64_t count = problem.images.count - first < group ? problem.images.count - first : group;
      member.share(count, [&](int64_t i) { prepare_image(problem, first + i, false, image_at(i)); });
      member.share(count * bins.count, [&](int64_t item) {
        score_bin(problem, first + item % count, bins.bins[item / count], image_at(item % count), scratch, norms, scores);
      });
    }
  });
}

}  // namespace gloria::GLORIA_ISA
