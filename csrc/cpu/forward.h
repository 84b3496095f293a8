// Scores of every image with every text: an image is packed once for all texts, and its tiles never leave the cache.
#pragma once

#include <algorithm>
#include <vector>

#include "words.h"

namespace gloria::GLORIA_ISA {

// A window of packed words, by its first bin. A type of this engine, so that its vector's functions are this engine's
// too: the linker keeps one std::vector<int64_t> for all engines, and the processor may lack the instructions of the
// engine that it came from.
struct Window {
  int64_t first;
};

template <class Operand>
inline void score_bin(Worker<Operand>& w, const double* norms, float* scores, const Kept& best) {
  find_attention(w);
  sum_words(w, false);
  if (best.regions) keep_best(w, best);
  find_similarities(w, norms);
  for (const BinText* text = w.bin->texts; text != w.bin->texts + w.bin->text_count; ++text)
    scores[w.index * w.problem.texts.count + text->text] =
        static_cast<float>(pool_score(w.problem, words_of(w.problem, text->text, w.scratch.similarity + text->begin)));
}

// False if it was interrupted.
template <class Operand>
bool forward(const Problem& problem, const Bins& bins, float* scores, const Kept& best) {
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

  const Layouts image_of("the images of each thread", threads,
                         [&](Arena& arena) { return Image<Operand>(arena, problem, false); });
  const Layouts scratch_of("the tiles of each thread", threads,
                           [&](Arena& arena) { return Scratch<Operand>(arena, problem, bins, false); });
  const Layouts packs("packed words", 1, [&](Arena& arena) {
    return WordPack<Operand>(arena, problem.dim, window_rows, false, nullptr, nullptr);
  });
  const Layouts norms_of("the lengths of words", 1, [&](Arena& arena) { return arena.take<double>(bins.rows); });
  double* norms = norms_of[0];
  const WordPack<Operand> pack = packs[0];
  std::vector<WordOperands> words(bins.count);

  return parallel(threads, problem.interrupted, [&](Member member) {
    Worker<Operand> w{problem, member, scratch_of[member.index]};
    const auto prepare = [&](int64_t index, int64_t thread) {
      w.take_image(index, image_of[thread]);
      prepare_image(problem, index, false, w.image, w.clock);
    };
    const auto score = [&](int64_t bin) {
      w.take_bin(bins.bins[bin], words[bin]);
      score_bin(w, norms, scores, best);
    };
    for (size_t window = 0; window + 1 < windows.size(); ++window) {
      const int64_t begin = windows[window].first, end = windows[window + 1].first;
      w.clock.enter(Stage::kPack);
      w.member.share(end - begin, [&](int64_t i) {
        const Bin& bin = bins.bins[begin + i];
        word_norms<Operand>(problem, bin, norms);
        words[begin + i] = pack.pack(problem, bin, bin.offset - bins.bins[begin].offset, nullptr);
      });
      w.member.share(whole, [&](int64_t i) {
        prepare(i, w.member.index);
        for (int64_t b = begin; b < end && !w.member.stopped(); ++b) score(b);
        w.clock.enter(Stage::kWait);
      });
      for (int64_t first = whole; first < images; first += threads) {
        const int64_t count = std::min(threads, images - first);
        w.member.share(count, [&](int64_t i) {
          prepare(first + i, i);
          w.clock.enter(Stage::kWait);
        });
        w.member.share(count * (end - begin), [&](int64_t item) {
          w.take_image(first + item % count, image_of[item % count]);
          score(begin + item / count);
          w.clock.enter(Stage::kWait);
        });
      }
    }
    w.clock.add_to(problem.stage_nanoseconds);
  });
}

}  // namespace gloria::GLORIA_ISA
