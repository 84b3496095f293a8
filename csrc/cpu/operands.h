// What a product multiplies and writes, and which part of it is wanted.
#pragma once

#include "forms.h"

namespace gloria::GLORIA_ISA {

// Left operand: an A form of `alloc` rows, or the B form (`alloc` units of K a panel) of its transpose.
struct Left {
  const Unit* units;
  int64_t alloc;
  bool transposed;
};
struct Right {
  const Unit* units;
  int64_t alloc;  // units of K a panel
};
struct Result {
  float* values;
  int64_t alloc;  // rows a panel
  bool accumulate;
};

// Which part of a product with a symmetric matrix is wanted. Blocks are kGroup panels wide.
//   kFull          everything
//   kUpperRows     the result is symmetric: only rows up to the end of each block of columns
//   kUpperInner    the right operand is zero below its block diagonal: K stops at the end of each block of columns
enum class Extent { kFull, kUpperRows, kUpperInner };

#if defined(GLORIA_AMX)
constexpr int64_t kGroup = 2;  // panels a micro-kernel
#else
constexpr int64_t kGroup = kLanes == 16 ? 3 : 1;  // panels a micro-kernel
#endif

}  // namespace gloria::GLORIA_ISA
