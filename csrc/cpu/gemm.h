// Products of tiles: the loop over blocks, and the micro-kernels of float32 FMA and bfloat16 dot products.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "operands.h"
#if defined(GLORIA_AMX)
#include "gemm_amx.h"
#endif

namespace gloria::GLORIA_ISA {

constexpr int64_t kRows = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 2;  // rows a micro-kernel
// Units of K between visits to the results. What the right operand holds of it stays in the first-level cache; and in
// float32 a longer chain of additions would err more than all else.
constexpr int64_t kChunk = 128;

inline Vec splat(Float32Operand, Unit w) { return broadcast(bits_as<float>(w)); }
inline Vec multiply_add(Float32Operand, Vec a, Vec b, Vec sum) { return a * b + sum; }

#if defined(__AVX512BF16__)
inline Vec splat(BFloat16Operand, Unit w) { return reinterpret_cast<Vec>(_mm512_set1_epi32(static_cast<int>(w))); }
inline Vec multiply_add(BFloat16Operand, Vec a, Vec b, Vec sum) {
  return reinterpret_cast<Vec>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}
#endif

// sums[i][j] += row i of the left operand times panel j of the right one, over `units` units of K.
template <class Operand, int panels, bool transposed>
inline void dot_products(const Unit* a, const Unit* b, int64_t b_panel, int64_t units,
                         Vec (&sum)[kRows][panels * kParts]) {
  constexpr int64_t row_stride = transposed ? 1 : 16, k_stride = transposed ? 16 : 1;
#pragma GCC unroll 4
  for (int64_t k = 0; k < units; ++k, b += kPanel) {
    Vec right[panels * kParts];
#pragma GCC unroll 16
    for (int j = 0; j < panels * kParts; ++j)
      right[j] = load(reinterpret_cast<const float*>(b + (j / kParts) * b_panel) + (j % kParts) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec left = splat(Operand{}, a[i * row_stride + k * k_stride]);
#pragma GCC unroll 16
      for (int j = 0; j < panels * kParts; ++j) sum[i][j] = multiply_add(Operand{}, left, right[j], sum[i][j]);
    }
  }
}

// One block of kRows x (panels * 16) results over one chunk of K, whose sums stay in registers.
template <class Operand, int panels, bool transposed>
inline void micro_kernel(const Unit* a, int64_t a_block, const Unit* b, int64_t b_panel, int64_t units, float* c,
                         int64_t c_panel, bool accumulate) {
  Vec sum[kRows][panels * kParts] = {};
  int64_t k = 0;
  for (; k + 16 <= units; k += 16, a += a_block)
    dot_products<Operand, panels, transposed>(a, b + k * kPanel, b_panel, 16, sum);
  if (k < units) dot_products<Operand, panels, transposed>(a, b + k * kPanel, b_panel, units - k, sum);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < panels * kParts; ++j) {
      float* to = c + (j / kParts) * c_panel + i * kPanel + (j % kParts) * kLanes;
      store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
    }
}

// All rows of one group of panels: the right operand's share, 24 KiB at most, stays in the first-level cache.
template <class Operand, int panels, bool transposed>
inline void column_block(const Unit* a, int64_t a_alloc, const Unit* b, int64_t b_alloc, float* c, int64_t c_alloc,
                         int64_t rows, int64_t units, bool accumulate) {
  for (int64_t i = 0; i < rows; i += kRows) {
    const Unit* from = a + (transposed ? (i / 16) * a_alloc * 16 + i % 16 : i * 16);
    micro_kernel<Operand, panels, transposed>(from, transposed ? 256 : a_alloc * 16, b, b_alloc * 16, units,
                                              c + i * kPanel, c_alloc * kPanel, accumulate);
  }
}

template <class Operand, bool transposed>
inline void product_by_registers(Left left, Right right, Result result, int64_t rows, int64_t panels, int64_t units,
                                 Extent extent) {
  for (int64_t k = 0; k < units; k += kChunk)
    for (int64_t p = 0; p < panels; p += kGroup) {
      const int64_t n = panels - p < kGroup ? panels - p : kGroup;
      const int64_t last = (p + n) * kPanel;
      const int64_t r = extent == Extent::kUpperRows && last < rows ? last : rows;
      const int64_t end = extent == Extent::kUpperInner && last / Operand::kValuesPerUnit < units
                              ? last / Operand::kValuesPerUnit
                              : units;
      if (k >= end) continue;
      const int64_t chunk = end - k < kChunk ? end - k : kChunk;
      const Unit* a = left.units + (transposed ? k * 16 : k * left.alloc);
      const Unit* b = right.units + (p * right.alloc + k) * 16;
      float* c = result.values + p * result.alloc * kPanel;
      const auto block = [&](auto count) {
        column_block<Operand, count, transposed>(a, left.alloc, b, right.alloc, c, result.alloc, r, chunk,
                                                 result.accumulate || k > 0);
      };
      if (n == 1) block(std::integral_constant<int, 1>{});
      if constexpr (kGroup == 3) {
        if (n == 2) block(std::integral_constant<int, 2>{});
        if (n == 3) block(std::integral_constant<int, 3>{});
      }
    }
}

// result (rows x panels*16) = left (rows x K) * right (K x panels*16), K given in units; rows a multiple of 16.
// Every element sums over K in the same order wherever it stands in the tile: scores do not depend on neighbors.
template <class Operand>
inline void product(Left left, Right right, Result result, int64_t rows, int64_t panels, int64_t units,
                    Extent extent = Extent::kFull) {
#if defined(GLORIA_AMX)
  product_by_tiles(left, right, result, rows, panels, units, extent);
#else
  if (left.transposed)
    product_by_registers<Operand, true>(left, right, result, rows, panels, units, extent);
  else
    product_by_registers<Operand, false>(left, right, result, rows, panels, units, extent);
#endif
}

}  // namespace gloria::GLORIA_ISA
