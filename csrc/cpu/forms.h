// The three tile forms that every product reads and writes, and the packing of rows into them.
//
// A unit is 32 bits: one float32, or two neighboring bfloat16 of the inner dimension K of a product.
//   A form  (rows x K)   [K units / 16][rows][16 units]    left operand: 16 units of K contiguous in each row
//   B form  (K x cols)   [cols / 16][K units][16 columns]  right operand: a panel of 16 columns, K downwards
//   C form  (rows x cols) [cols / 16][rows][16 columns]    float32 results
// In float32 the C form of a result is its B form (K = its rows) and its A form (K = its columns): nothing is ever
// converted. In bfloat16 a result is rounded into the form that the next product wants.
#pragma once

#include <cstring>

#include "../problem.h"
#include "simd.h"

namespace gloria::GLORIA_ISA {

typedef uint32_t Unit;

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What a kernel multiplies: `kValuesPerUnit` values to a unit, rows padded to `kPad` so that K always fills whole
// blocks of 16 units, and the exponential that is exact enough for it.
struct Float32Operand {
  static constexpr int kValuesPerUnit = 1;
  static constexpr int kPad = 16;
  static constexpr int kExpDegree = 6;
};
struct BFloat16Operand {
  static constexpr int kValuesPerUnit = 2;
  static constexpr int kPad = 32;
  static constexpr int kExpDegree = 3;
};

template <class Operand>
inline int64_t padded(int64_t n) {
  return (n + Operand::kPad - 1) / Operand::kPad * Operand::kPad;
}
inline int64_t panels_of(int64_t n) { return (n + kPanel - 1) / kPanel; }

template <class To, class From>
inline To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From), "a view of the same bits");
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  // The exponent moves from bias 15 to 127 by a product, which makes subnormals normal; infinity and NaN keep theirs
  // full.
  const float scaled = bits_as<float>(magnitude << 13) * 0x1p112f;
  const uint32_t full = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  return bits_as<float>(bits_as<uint32_t>(scaled) | full | sign);
}

// Rounded to nearest even; NaN stays NaN.
inline void narrow(float x, float* out) { *out = x; }
inline void narrow(float x, BFloat16* out) {
  const uint32_t bits = bits_as<uint32_t>(x);
  out->bits = x == x ? static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16) : uint16_t{0x7fc0};
}
inline void narrow(float x, Float16* out) {
  const uint32_t bits = bits_as<uint32_t>(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude >= 0x47800000u) {  // 65536 and above, infinity, NaN
    half = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 1/2 leaves the multiple of 2^-24 in the low bits
    half = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  out->bits = static_cast<uint16_t>(half | sign);
}

// 16 units of a row from value `k` on, zero beyond `dim`.
inline void pack_units(Float32Operand, const float* row, int64_t k, int64_t dim, Unit* out) {
  const int64_t n = dim - k < 16 ? dim - k : 16;
  std::memcpy(out, row + k, n * 4);
  for (int64_t i = n; i < 16; ++i) out[i] = 0;
}
template <class Narrow>
inline void pack_units(Float32Operand, const Narrow* row, int64_t k, int64_t dim, Unit* out) {
  const int64_t n = dim - k < 16 ? dim - k : 16;
  for (int64_t i = 0; i < n; ++i) out[i] = bits_as<Unit>(widen(row[k + i]));
  for (int64_t i = n; i < 16; ++i) out[i] = 0;
}
inline void pack_units(BFloat16Operand, const BFloat16* row, int64_t k, int64_t dim, Unit* out) {
  const int64_t n = dim - k < 32 ? dim - k : 32;
  std::memcpy(out, row + k, n * 2);
  std::memset(reinterpret_cast<char*>(out) + n * 2, 0, (32 - n) * 2);
}

// Calls `use` with `rows` typed by what they hold. Engines with bfloat16 products are given bfloat16 rows only.
template <class Operand, class Use>
inline void with_typed(DType dtype, const void* rows, Use use) {
  if constexpr (Operand::kValuesPerUnit == 2) {
    use(static_cast<const BFloat16*>(rows));
  } else {
    switch (dtype) {
      case DType::kFloat32:
        return use(static_cast<const float*>(rows));
      case DType::kBFloat16:
        return use(static_cast<const BFloat16*>(rows));
      case DType::kFloat16:
        return use(static_cast<const Float16*>(rows));
    }
  }
}

// sum[d] += row[d]
template <class Value>
inline void add_row(const Value* __restrict row, int64_t dim, float* __restrict sum, float factor = 1.0f) {
  for (int64_t d = 0; d < dim; ++d) sum[d] += factor * widen(row[d]);
}

// 16 units of a float32 row, less `factor` times as many of the center.
inline void less_center(const Unit* units, const float* center, Unit* out, float factor = 1.0f) {
  for (int64_t i = 0; i < 16; i += kLanes)
    store(reinterpret_cast<float*>(out) + i,
          load(reinterpret_cast<const float*>(units) + i) - load(center + i) * factor);
}

// Row `r` of an A form of `alloc` rows.
template <class Operand, class Value>
inline void pack_row(const Value* row, int64_t dim, int64_t alloc, int64_t r, Unit* a_form) {
  constexpr int64_t step = 16 * Operand::kValuesPerUnit;
  for (int64_t k = 0; k < dim; k += step) pack_units(Operand{}, row, k, dim, a_form + ((k / step) * alloc + r) * 16);
}
template <class Operand>
inline void clear_row(int64_t dim, int64_t alloc, int64_t r, Unit* a_form) {
  constexpr int64_t step = 16 * Operand::kValuesPerUnit;
  for (int64_t k = 0; k < dim; k += step) std::memset(a_form + ((k / step) * alloc + r) * 16, 0, 64);
}

// A form of X (rows x K) -> B form of its transpose (K x rows), or back: both are grids of 16 x 16 units, each block
// transposed. `from` holds `blocks` columns of `rows` rows of 16 units; `to` holds rows/16 panels of blocks*16 rows.
inline void transpose_blocks(const Unit* from, int64_t blocks, int64_t rows, Unit* to) {
  for (int64_t p = 0; p < rows / 16; ++p)
    for (int64_t b = 0; b < blocks; ++b) {
      const Unit* in = from + (b * rows + p * 16) * 16;
      Unit* out = to + (p * blocks * 16 + b * 16) * 16;
#if defined(__AVX512F__)
      typedef Unit W16 __attribute__((vector_size(64), may_alias));
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
