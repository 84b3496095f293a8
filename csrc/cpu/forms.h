// The three tile forms that every product reads and writes, and the packing of rows into them.
//
// A word is 32 bits: one float32, or two neighbouring bfloat16 of the inner dimension K of a product.
//   A form  (rows x K)   [K words / 16][rows][16 words]    left operand: 16 words of K contiguous in each row
//   B form  (K x cols)   [cols / 16][K words][16 columns]  right operand: a panel of 16 columns, K downwards
//   C form  (rows x cols) [cols / 16][rows][16 columns]    float32 results
// In float32 the C form of a result is its B form (K = its rows) and its A form (K = its columns): nothing is ever converted.
// In bfloat16 a result is rounded into the form that the next product wants.
#pragma once

#include <cstring>

#include "simd.h"

namespace gloria::GLORIA_ISA {

typedef uint32_t Word;
using BFloat16 = uint16_t;

// What a kernel multiplies: `kPer` values to a word, rows padded to `kPad` so that K always fills whole blocks of 16 words.
struct Float32Operand {
  static constexpr int kPer = 1;
  static constexpr int kPad = 16;
};
struct BFloat16Operand {
  static constexpr int kPer = 2;
  static constexpr int kPad = 32;
};

template <class Operand>
inline int64_t padded(int64_t n) {
  return (n + Operand::kPad - 1) / Operand::kPad * Operand::kPad;
}
inline int64_t panels_of(int64_t n) { return (n + kPanel - 1) / kPanel; }

inline float widen(float x) { return x; }
inline float widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
inline void narrow(float x, float* out) { *out = x; }
inline void narrow(float x, BFloat16* out) {  // round to nearest even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  *out = x == x ? static_cast<BFloat16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16) : BFloat16{0x7fc0};
}

// 16 words of a row from value `k` on, zero beyond `dim`.
inline void pack_words(Float32Operand, const float* row, int64_t k, int64_t dim, Word* out) {
  const int64_t n = dim - k < 16 ? dim - k : 16;
  std::memcpy(out, row + k, n * 4);
  for (int64_t i = n; i < 16; ++i) out[i] = 0;
}
inline void pack_words(Float32Operand, const BFloat16* row, int64_t k, int64_t dim, Word* out) {
  for (int64_t i = 0; i < 16; ++i) out[i] = k + i < dim ? static_cast<Word>(row[k + i]) << 16 : 0;
}
inline void pack_words(BFloat16Operand, const BFloat16* row, int64_t k, int64_t dim, Word* out) {
  const int64_t n = dim - k < 32 ? dim - k : 32;
  std::memcpy(out, row + k, n * 2);
  std::memset(reinterpret_cast<char*>(out) + n * 2, 0, (32 - n) * 2);
}

// Row `r` of an A form of `alloc` rows. A null source gives a row of zeros.
template <class Operand, class Value>
inline void pack_row(const Value* source, int64_t dim, int64_t alloc, int64_t r, Word* a_form) {
  constexpr int64_t step = 16 * Operand::kPer;
  for (int64_t k = 0; k < dim; k += step) {
    Word* out = a_form + ((k / step) * alloc + r) * 16;
    if (source)
      pack_words(Operand{}, source, k, dim, out);
    else
      std::memset(out, 0, 64);
  }
}

// A form of X (rows x K) -> B form of its transpose (K x rows), or back: both are grids of 16 x 16 words, each block transposed.
// `from` holds `blocks` columns of `rows` rows of 16 words; `to` holds rows/16 panels of blocks*16 rows.
inline void transpose_blocks(const Word* from, int64_t blocks, int64_t rows, Word* to) {
  for (int64_t p = 0; p < rows / 16; ++p)
    for (int64_t b = 0; b < blocks; ++b) {
      const Word* in = from + (b * rows + p * 16) * 16;
      Word* out = to + (p * blocks * 16 + b * 16) * 16;
#if defined(__AVX512F__)
      typedef Word W16 __attribute__((vector_size(64), may_alias));
      W16 x[16], y[16];
      for (int i = 0; i < 16; ++i) x[i] = reinterpret_cast<const W16*>(in)[i];
      // Four rounds; each swaps one bit of the row number with one bit of the lane number.
      constexpr W16 lo8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
      constexpr W16 hi8 = {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31};
      constexpr W16 lo4 = {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27};
      constexpr W16 hi4 = {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31};
      constexpr W16 lo2 = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29};
      constexpr W16 hi2 = {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31};
      constexpr W16 lo1 = {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30};
      constexpr W16 hi1 = {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31};
#define GLORIA_ROUND(from_, to_, bit, lo, hi)                         \
  for (int i = 0; i < 16; ++i)                                        \
    if (!(i & bit)) {                                                 \
      to_[i] = __builtin_shuffle(from_[i], from_[i | bit], lo);       \
      to_[i | bit] = __builtin_shuffle(from_[i], from_[i | bit], hi); \
    }
      GLORIA_ROUND(x, y, 8, lo8, hi8)
      GLORIA_ROUND(y, x, 4, lo4, hi4)
      GLORIA_ROUND(x, y, 2, lo2, hi2)
      GLORIA_ROUND(y, x, 1, lo1, hi1)
#undef GLORIA_ROUND
      for (int i = 0; i < 16; ++i) reinterpret_cast<W16*>(out)[i] = x[i];
#else
      for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) out[j * 16 + i] = in[i * 16 + j];
#endif
    }
}

}  // namespace gloria::GLORIA_ISA
