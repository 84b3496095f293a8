// Groups of texts that share one tile of affinities, so that short texts do not waste its rows.
#pragma once

#include <cstdint>
#include <vector>

#include "../problem.h"

namespace gloria {

// Text `text` fills the rows [begin, end) of the tile of its bin.
struct BinText {
  int64_t text, begin, end;
};

struct Bin {
  const BinText* texts;
  int64_t text_count;
  int64_t used;    // rows that hold words
  int64_t rows;    // with padding
  int64_t offset;  // rows of all bins before this one
};

struct Bins {
  const Bin* bins;
  int64_t count;
  int64_t rows;      // of all bins
  int64_t max_rows;  // of the largest bin
};

// The texts of one side in bins, best fit and longest first. It depends on the lengths alone, never on the number of
// threads: the order of summation in the gradients follows from it.
class TextBins {
 public:
  TextBins(const Ragged& texts, int64_t capacity, int64_t pad);
  TextBins(const TextBins&) = delete;
  TextBins& operator=(const TextBins&) = delete;
  const Bins& all() const { return all_; }

 private:
  std::vector<BinText> texts_;
  std::vector<Bin> list_;
  Bins all_{};
};

}  // namespace gloria
