// Scores of every image with every text: an image is packed once for all texts, and its tiles never leave the cache.
#pragma once

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "words.h"

namespace gloria::GLORIA_ISA {

// A window of packed words, by its first bin. A type of this engine, so that its vector's functions are this engine's
// too: the linker keeps one std::vector<int64_t> for all engines, and the processor may lack the instructions of the
// engine that it came from.
struct Window {
  int64_t first;
};

template <class Operand>
inline void score_bin(const Problem& problem, int64_t index, const Bin& bin, const WordOperands& words,
                      const Image<Operand>& image, const Scratch<Operand>& scratch, const double* norms, float* scores,
                      StageClock& clock) {
  const ImageShape<Operand> shape(problem.images.lengths[index], problem.dim);
  attention_of(problem, bin, words, shape, image, scratch, clock);
  clock.enter(Stage::kContext);
  sum_words(problem, index, bin, shape, image, scratch, false);
  clock.enter(Stage::kPool);
  for (int64_t r = 0; r < bin.used; ++r)
    scratch.similarity[r] = word_similarity(problem, scratch.sums[r], norms[bin.offset + r]);
  for (int64_t t = 0; t < bin.text_count; ++t) {
    const BinText& text = bin.texts[t];
    scores[index * problem.texts.count + text.text] =
        pool_score(problem, scratch.similarity + text.begin, text.end - text.begin);
  }
}

// False if it was interrupted.
template <class Operand>
bool forward(const Problem& problem, const Bins& bins, float* scores) {
  const ImageShape<Operand> largest(longest(problem.images), problem.dim);
  const bool direct = any_direct(problem);
  const int64_t threads = problem.threads, images = problem.images.count;
  // A thread takes whole images, without waiting for others. The last images are shared, so that none is idle at the
  // end, nor where there are fewer images than threads.
  const int64_t whole = images < 2 * threads ? 0 : (images / threads - 1) * threads;

  std::vector<Window> windows;
  int64_t window_rows = 0;
  for (int64_t first = 0; first < bins.count;) {
    windows.push_back({first});
    const Bin& bin = bins.bins[first];
    first += bins_together<Operand>(problem, bins, first, false);
    window_rows = std::max(window_rows, (first < bins.count ? bins.bins[first].offset : bins.rows) - bin.offset);
  }
  windows.push_back({bins.count});

  Arena image_size, scratch_size, words_size;
  Image<Operand>(image_size, problem, largest, false, direct);
  Scratch<Operand>(scratch_size, problem, bins, largest, direct, false);
  WordPack<Operand>(words_size, problem.dim, window_rows, false, nullptr);
  const Buffers image_buffers("the images of each thread", threads, image_size.used()),
      scratches("the tiles of each thread", threads, scratch_size.used()),
      words_buffer("packed words", 1, words_size.used()), norms_buffer("the lengths of words", 1, bins.rows * 8);
  double* norms = reinterpret_cast<double*>(norms_buffer[0]);
  Arena words_memory(words_buffer[0]);
  const WordPack<Operand> pack(words_memory, problem.dim, window_rows, false, nullptr);
  std::vector<WordOperands> words(bins.count);

  return parallel(threads, problem.interrupted, [&](Member member) {
    StageClock clock(problem.stage_nanoseconds);
    Arena arena(scratches[member.index]);
    const Scratch<Operand> scratch(arena, problem, bins, largest, direct, false);
    const auto image_of = [&](int64_t thread) {
      Arena memory(image_buffers[thread]);
      return Image<Operand>(memory, problem, largest, false, direct);
    };
    const auto score = [&](int64_t index, int64_t bin, int64_t thread) {
      score_bin(problem, index, bins.bins[bin], words[bin], image_of(thread), scratch, norms, scores, clock);
    };
    for (size_t window = 0; window + 1 < windows.size(); ++window) {
      const int64_t begin = windows[window].first, end = windows[window + 1].first;
      clock.enter(Stage::kPack);
      member.share(end - begin, [&](int64_t i) {
        const Bin& bin = bins.bins[begin + i];
        word_norms<Operand>(problem, bin, norms);
        words[begin + i] = pack.pack(problem, bin, bin.offset - bins.bins[begin].offset, nullptr);
      });
      member.share(whole, [&](int64_t i) {
        prepare_image(problem, i, false, image_of(member.index), clock);
        for (int64_t b = begin; b < end && !member.stopped(); ++b) score(i, b, member.index);
        clock.enter(Stage::kWait);
      });
      for (int64_t first = whole; first < images; first += threads) {
        const int64_t count = std::min(threads, images - first);
        member.share(count, [&](int64_t i) {
          prepare_image(problem, first + i, false, image_of(i), clock);
          clock.enter(Stage::kWait);
        });
        member.share(count * (end - begin), [&](int64_t item) {
          score(first + item % count, begin + item / count, item % count);
          clock.enter(Stage::kWait);
        });
      }
    }
    clock.add_to(problem.stage_nanoseconds);
  });
}

}  // namespace gloria::GLORIA_ISA
