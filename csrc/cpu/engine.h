// What the host calls: one forward and one backward for each instruction set and operand type.
#pragma once

#include "bins.h"

namespace gloria {

struct Engine {
  const char* isa;
  int64_t pad;  // rows of a bin are a multiple of it
  // Both return false if they were interrupted.
  bool (*forward)(const Problem&, const Bins&, float* scores, const Kept& best);
  bool (*backward)(const Problem&, const Bins&, const Gradients&);
  void (*exponential)(const float* x, float* out, int64_t count);  // by itself, to be tested and timed
};

}  // namespace gloria
