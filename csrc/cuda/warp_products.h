// Products by mma.sync of a warp: 64 rows of one operand with 64 of another, both along K in shared memory, in steps of
// 64. So large, since what a warp reads of shared memory then takes less time than its products.
#pragma once

#include "ptx.h"

namespace gloria_cuda {
namespace warp_products {

using namespace gpu;

constexpr int kDepth = 64, kSide = 64, kM = kSide / 16, kN = kSide / 8;
constexpr uint32_t kRow = 2 * kDepth;  // bytes

// Element 2 r + e of block (m, n) is row 16 m + lane / 4 + 8 r and column 8 n + 2 (lane % 4) + e.
using Sums = float[kM][kN][4];

// Places of chunks of 16 bytes such that eight rows never meet in a bank.
DEVICE uint32_t place(uint32_t base, int row, int chunk) { return base + row * kRow + ((chunk ^ (row & 7)) << 4); }

struct AsItIs {
  DEVICE void operator()(int, uint32_t (&)[kM][4]) const {}
};

// Adds the product of a step. `change` is given what the lane has of the left operand: 2 (lane % 4) + e of 16 along K
// in the first two of each four, and 8 more in the others.
template <class T, class Change = AsItIs>
DEVICE void multiply(Sums& s, uint32_t left, uint32_t right, Change&& change = {}) {
  const int lane = thread() % 32;
#pragma unroll
  for (int k16 = 0; k16 < kDepth / 16; ++k16) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) ldmatrix(a[m], place(left, m * 16 + lane % 16, k16 * 2 + lane / 16));
    change(k16, a);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      ldmatrix(b, place(right, n * 8 + lane % 8 + lane / 16 * 8, k16 * 2 + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < kM; ++m) mma<T>(s[m][n], a[m], b[0], b[1]), mma<T>(s[m][n + 1], a[m], b[2], b[3]);
    }
  }
}

}  // namespace warp_products
}  // namespace gloria_cuda
