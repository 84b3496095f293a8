// Rows brought to where the products want them, zeros behind them, and their lengths |x|: nothing of the padding is
// read, whatever it holds.
#pragma once

#include "problem.h"
#include "ptx.h"

namespace gloria_cuda {

using namespace gpu;

constexpr int kPackThreads = 256;

template <class T>
DEVICE float squares_of(uint32_t pair) {
  return low<T>(pair) * low<T>(pair) + high<T>(pair) * high<T>(pair);
}

// A warp a row.
template <class T>
KERNEL LAUNCH_BOUNDS(kPackThreads, 4) void pack_rows(const GRID_CONSTANT PackProblem p) {
  const int lane = thread() % 32;
  const int64_t count = p.used ? static_cast<int64_t>(*p.used) * kWords : p.count;
  // Sixteen bytes at a time need rows that begin at a multiple of them.
  const bool wide = p.dim % 8 == 0 && reinterpret_cast<uintptr_t>(p.from) % 16 == 0;
  for (int64_t row = static_cast<int64_t>(block()) * (kPackThreads / 32) + thread() / 32; row < count;
       row += static_cast<int64_t>(blocks()) * (kPackThreads / 32)) {
    int64_t source = -1;
    if (p.rows) {
      source = p.rows[row];
    } else if (row % p.side < p.lengths[row / p.side]) {
      source = p.starts[row / p.side] + row % p.side;
    }
    const uint16_t* from = p.from + source * p.dim;
    uint16_t* to = p.to + row * p.padded_dim;
    float sum = 0;
    for (int k = lane * 8; k < p.padded_dim; k += 256) {
      uint4 chunk{0, 0, 0, 0};
      if (source >= 0 && k < p.dim) {
        if (wide) {
          chunk = *reinterpret_cast<const uint4*>(from + k);
        } else {
          uint16_t values[8];
          for (int i = 0; i < 8; ++i) values[i] = k + i < p.dim ? from[k + i] : 0;
          chunk.x = values[0] | static_cast<uint32_t>(values[1]) << 16,
          chunk.y = values[2] | static_cast<uint32_t>(values[3]) << 16;
          chunk.z = values[4] | static_cast<uint32_t>(values[5]) << 16,
          chunk.w = values[6] | static_cast<uint32_t>(values[7]) << 16;
        }
      }
      *reinterpret_cast<uint4*>(to + k) = chunk;
      sum += squares_of<T>(chunk.x) + squares_of<T>(chunk.y) + squares_of<T>(chunk.z) + squares_of<T>(chunk.w);
    }
    for (int mask = 16; mask; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0) p.norms[row] = sqrtf(sum);
  }
}

}  // namespace gloria_cuda
