// Best fit, longest text first, into bins of a fixed number of rows.
#include "bins.h"

#include <algorithm>
#include <numeric>

namespace gloria {

TextBins::TextBins(const Ragged& texts, int64_t capacity, int64_t pad) {
  std::vector<int64_t> order(texts.count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return texts.lengths[a] > texts.lengths[b]; });
  if (!order.empty()) capacity = std::max(capacity, texts.lengths[order[0]]);

  std::vector<std::vector<BinText>> contents;
  std::vector<std::vector<int64_t>> by_room(capacity + 1);  // open bins by the number of rows left
  for (const int64_t text : order) {
    const int64_t length = texts.lengths[text];
    int64_t room = length;
    while (room <= capacity && by_room[room].empty()) ++room;
    int64_t bin;
    if (room <= capacity) {
      bin = by_room[room].back();
      by_room[room].pop_back();
    } else {
      bin = static_cast<int64_t>(contents.size());
      contents.emplace_back();
      room = capacity;
    }
    const int64_t begin = capacity - room;
    contents[bin].push_back({text, begin, begin + length});
    by_room[room - length].push_back(bin);
  }

  texts_.reserve(texts.count);  // the bins point into it
  for (const auto& bin : contents) {
    const int64_t used = bin.back().end, rows = (used + pad - 1) / pad * pad;
    list_.push_back({texts_.data() + texts_.size(), static_cast<int64_t>(bin.size()), used, rows, all_.rows});
    texts_.insert(texts_.end(), bin.begin(), bin.end());
    all_.rows += rows;
    all_.max_rows = std::max(all_.max_rows, rows);
  }
  all_.bins = list_.data();
  all_.count = static_cast<int64_t>(list_.size());
}

}  // namespace gloria
