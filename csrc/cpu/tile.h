// Rounding of float32 result tiles into the operand form that the next product wants.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "gemm.h"

namespace gloria::GLORIA_ISA {

// The value that the products will see for x; keeps a sum taken beside a product consistent with it.
inline Vec as_operand(Float32Operand, Vec x) { return x; }

// In float32 a C form already is the A form and the B form of the same matrix.
inline const Unit* to_left(Float32Operand, const float* c_form, int64_t, int64_t, Unit*) {
  return reinterpret_cast<const Unit*>(c_form);
}
inline const Unit* to_right(Float32Operand, const float* c_form, int64_t, int64_t, Unit*) {
  return reinterpret_cast<const Unit*>(c_form);
}
// A form of X (rows x K) as the B form of X (its rows are the inner dimension).
inline const Unit* rows_to_right(Float32Operand, const Unit* a_form, int64_t, int64_t, Unit*) { return a_form; }
// A form of X as the left operand X^T.
inline Left transposed(Float32Operand, const Unit* a_form, int64_t rows, int64_t, Unit*, Unit*) {
  return {a_form, rows, true};
}

#if defined(__AVX512BF16__) || defined(GLORIA_AMX_EMULATED)
// 16 values of each, rounded to nearest even: those of `low` in the lower half.
inline __m512i round_pair(__m512 low, __m512 high) {
#if defined(GLORIA_AMX_EMULATED)  // like the tiles, so that the tests need no more than AVX-512
  const auto half = [](__m512 x) {
    const __m512i bits = _mm512_castps_si512(x),
                  odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc00000)), 16));
  };
  return _mm512_inserti64x4(_mm512_castsi256_si512(half(low)), half(high), 1);
#else
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
#endif
}

inline Vec as_operand(BFloat16Operand, Vec x) {
  const __m512 v = reinterpret_cast<__m512>(x);
  return reinterpret_cast<Vec>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(round_pair(v, v))), 16));
}

// C form (rows x panels*16) -> A form; an odd last panel is joined with zeros.
inline const Unit* to_left(BFloat16Operand, const float* c_form, int64_t rows, int64_t panels, Unit* out) {
  alignas(64) static constexpr float zeros[kPanel] = {};
  for (int64_t p = 0; p < panels; p += 2)
    for (int64_t r = 0; r < rows; ++r) {
      const float* low = c_form + (p * rows + r) * kPanel;
      const float* high = p + 1 < panels ? low + rows * kPanel : zeros;
      _mm512_store_si512(out + ((p / 2) * rows + r) * 16, round_pair(_mm512_load_ps(low), _mm512_load_ps(high)));
    }
  return out;
}

// C form (rows x panels*16) -> B form whose inner dimension is the rows.
inline const Unit* to_right(BFloat16Operand, const float* c_form, int64_t rows, int64_t panels, Unit* out) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int64_t i = 0; i < panels * rows / 2; ++i) {  // rows is even: pairs never cross a panel
    const float* low = c_form + i * 2 * kPanel;
    _mm512_store_si512(out + i * 16, _mm512_permutexvar_epi16(
                                         interleave, round_pair(_mm512_load_ps(low), _mm512_load_ps(low + kPanel))));
  }
  return out;
}

inline const Unit* rows_to_right(BFloat16Operand, const Unit* a_form, int64_t rows, int64_t blocks, Unit* out) {
  __m512i first, second;  // lanes of a pair of rows, interleaved: 32 values become two panels of 16 units
  {
    alignas(64) uint16_t index[64];
    for (int i = 0; i < 64; ++i) index[i] = static_cast<uint16_t>((i & 1) * 32 + i / 2);
    first = _mm512_load_si512(index);
    second = _mm512_load_si512(index + 32);
  }
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t r = 0; r < rows; r += 2) {
      const Unit* in = a_form + (b * rows + r) * 16;
      const __m512i even = _mm512_load_si512(in), odd = _mm512_load_si512(in + 16);
      Unit* to = out + (2 * b * (rows / 2) + r / 2) * 16;
      _mm512_store_si512(to, _mm512_permutex2var_epi16(even, first, odd));
      _mm512_store_si512(to + (rows / 2) * 16, _mm512_permutex2var_epi16(even, second, odd));
    }
  return out;
}

inline Left transposed(BFloat16Operand, const Unit* a_form, int64_t rows, int64_t blocks, Unit* out,
                       [[maybe_unused]] Unit* spare) {
#if defined(GLORIA_AMX)
  rows_to_right(BFloat16Operand{}, a_form, rows, blocks, spare);
  transpose_blocks(spare, 2 * blocks, rows / 2, out);
  return {out, 2 * blocks * 16, false};
#else
  return {rows_to_right(BFloat16Operand{}, a_form, rows, blocks, out), rows / 2, true};
#endif
}
#endif

}  // namespace gloria::GLORIA_ISA
