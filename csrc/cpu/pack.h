// The words of a bin packed as left operands: once for all images where they fit, or by each thread for each image.
#pragma once

#include <cmath>

#include "bins.h"
#include "image.h"

namespace gloria::GLORIA_ISA {

// Packed words that are kept for all images. More of them are packed window by window (forward, whose images are then
// made ready once for each window) or again for each image (backward, whose sums belong to an image).
constexpr int64_t kPackedBytes = int64_t{16} << 20;

// The word in row `r` of its bin, typed; `use(row, r)` for every word of the bin.
template <class Operand, class Use>
inline void for_words(const Problem& problem, const Bin& bin, Use use) {
  with_typed<Operand>(problem.dtype, problem.texts.rows, [&](const auto* rows) {
    for (const BinText* text = bin.texts; text != bin.texts + bin.text_count; ++text)
      for (int64_t r = text->begin; r < text->end; ++r)
        use(rows + (problem.texts.starts[text->text] + r - text->begin) * problem.dim, r);
  });
}

// |t| of every word, in the order of the bins.
template <class Operand>
inline void word_norms(const Problem& problem, const Bin& bin, double* norms) {
  for_words<Operand>(problem, bin, [&](const auto* row, int64_t r) {
    alignas(64) float lanes[kPanel] = {};
    for (int64_t d = 0; d < problem.dim; d += kPanel)
      for (int64_t i = 0; i < kPanel && d + i < problem.dim; ++i) lanes[i] += widen(row[d + i]) * widen(row[d + i]);
    norms[bin.offset + r] = std::sqrt(lane_sum(lanes));
  });
}

// T and T^T as left operands.
struct WordOperands {
  Left across;
  Left down;  // backward only; each word less its length times the center, where there is one
};

// The mean direction of all words of the problem, to [width] floats. Times the length of each word it is taken out of
// the products of a cosine's backward in float32, as the center of the regions is, and for the same reason. The length
// because the gradients go with its inverse: beside a mean of the words the shortest ones would have no digits left.
// False if the words have so little in common that taking it out gains nothing.
template <class Operand>
inline bool find_word_center(const Problem& problem, const Bins& bins, const double* norms, float* center) {
  std::memset(center, 0, padded<Operand>(problem.dim) * 4);
  int64_t words = 0;
  for (int64_t b = 0; b < bins.count; ++b) {
    words += bins.bins[b].used;
    for_words<Operand>(problem, bins.bins[b], [&](const auto* row, int64_t r) {
      const double norm = norms[bins.bins[b].offset + r];
      if (norm > 0.0) add_row(row, problem.dim, center, static_cast<float>(1.0 / norm));
    });
  }
  double square = 0.0;
  for (int64_t d = 0; d < problem.dim; ++d) {
    center[d] /= static_cast<float>(words);
    square += static_cast<double>(center[d]) * center[d];
  }
  return square > 0.25;
}

// Memory for the words of up to `rows` rows of bins.
template <class Operand>
class WordPack {
 public:
  static constexpr bool kRounds = Operand::kValuesPerUnit > 1;

  // `center`: of the words, or null; `norms` are read only with it.
  WordPack(Arena& arena, int64_t dim, int64_t rows, bool backward, const float* center, const double* norms)
      : size_(padded<Operand>(dim) / Operand::kValuesPerUnit), backward_(backward), center_(center), norms_(norms) {
    across_ = arena.take<Unit>(rows * size_);
    down_ = (kRounds && backward) || center ? arena.take<Unit>(rows * size_) : across_;
  }

  // Packs the words of `bin` at row `at` of this memory; `spare` holds the forms of one bin.
  WordOperands pack(const Problem& problem, const Bin& bin, int64_t at, Unit* spare) const {
    Unit* across = across_ + at * size_;
    for_words<Operand>(problem, bin,
                       [&](const auto* row, int64_t r) { pack_row<Operand>(row, problem.dim, bin.rows, r, across); });
    for (int64_t r = bin.used; r < bin.rows; ++r) clear_row<Operand>(problem.dim, bin.rows, r, across);
    WordOperands packed{{across, bin.rows, false}, {}};
    if (center_)
      packed.down = centered(bin, across, down_ + at * size_);
    else if (backward_)
      packed.down = transposed(Operand{}, across, bin.rows, size_ / 16, down_ + at * size_, spare);
    return packed;
  }

 private:
  Left centered(const Bin& bin, const Unit* across, Unit* out) const {
    for (int64_t k = 0; k < size_; k += 16) {
      Unit* to = out + k * bin.rows;
      for (int64_t r = 0; r < bin.used; ++r)
        less_center(across + (k * bin.rows) + r * 16, center_ + k, to + r * 16,
                    static_cast<float>(norms_[bin.offset + r]));
      std::memset(to + bin.used * 16, 0, (bin.rows - bin.used) * 64);
    }
    return {out, bin.rows, true};
  }

  int64_t size_;  // units of a row
  bool backward_;
  const float* center_;
  const double* norms_;
  Unit* across_;
  Unit* down_;
};

// How many bins from `first` on are packed together; one at least.
template <class Operand>
inline int64_t bins_together(const Problem& problem, const Bins& bins, int64_t first, bool backward) {
  const int64_t row_bytes = padded<Operand>(problem.dim) / Operand::kValuesPerUnit * 4 *
                            (backward && (WordPack<Operand>::kRounds || problem.cosine) ? 2 : 1);
  int64_t last = first + 1;
  while (last < bins.count &&
         (bins.bins[last].offset + bins.bins[last].rows - bins.bins[first].offset) * row_bytes <= kPackedBytes)
    ++last;
  return last - first;
}

}  // namespace gloria::GLORIA_ISA
