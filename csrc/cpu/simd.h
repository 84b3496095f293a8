// Vectors of the processor's natural width, and the exponential; compiled once for each instruction set.
#pragma once

#include <cstdint>

#if !defined(GLORIA_ISA)
#error "GLORIA_ISA names the instruction set that this translation unit is compiled for"
#endif

namespace gloria::GLORIA_ISA {

// Every tile is kept in panels of 16 lanes whatever the width of a register, so that one layout serves all.
constexpr int kPanel = 16;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kParts = kPanel / kLanes;  // registers a panel row

typedef float Vec __attribute__((vector_size(4 * kLanes), may_alias));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes), may_alias));
typedef uint32_t UVec __attribute__((vector_size(4 * kLanes), may_alias));

inline Vec broadcast(float x) { return x - Vec{}; }
inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec x) { *reinterpret_cast<Vec*>(p) = x; }
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
constexpr float kRound = 12582912.0f;

// p * 2^n for the n in the low bits of `shifted`. Unsigned: lanes without a region may hold anything, and are masked by
// the caller.
inline Vec scale_by_power(Vec p, Vec shifted) {
  return reinterpret_cast<Vec>(reinterpret_cast<UVec>(p) + (reinterpret_cast<UVec>(shifted) << 23));
}

// e^(x * scale) / 2^halvings for an exponent within -87 and 88. Relative error: degree 6 below 1e-7; degree 3, for
// results that are rounded to bfloat16, below 8e-5.
template <int degree>
inline Vec exp_bounded(Vec x, Vec scale, float halvings) {
  static_assert(degree == 3 || degree == 6, "the polynomials at hand");
  if constexpr (degree == 6) {
    x = x * scale;
    const Vec shifted = x * 1.44269504088896341f + kRound;
    const Vec n = shifted - kRound;
    Vec r = x - n * 0.693145751953125f;  // ln 2 in two parts, the first exact in 15 bits
    r = r - n * 1.428606820309417e-06f;
    // 1 + r + r^2 times the minimax polynomial of (e^r - 1 - r) / r^2 on |r| <= ln(2)/2
    Vec p = broadcast(1.3814540180e-03f);
    p = p * r + 8.3687453029e-03f;
    p = p * r + 4.1668390798e-02f;
    p = p * r + 1.6666520397e-01f;
    p = p * r + 4.9999993432e-01f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return scale_by_power(p, shifted - halvings);
  } else {
    x = x * (scale * 1.44269504088896341f);
    const Vec shifted = x + kRound;
    const Vec r = x - (shifted - kRound);
    // minimax of 2^r on |r| <= 1/2, that of e^r in powers of r ln 2
    Vec p = broadcast(5.5171674e-02f);
    p = p * r + 2.4261248e-01f;
    p = p * r + 6.9326120e-01f;
    p = p * r + 9.9992794e-01f;
    return scale_by_power(p, shifted - halvings);
  }
}

// e^x for x <= 88; below -87 it stays at e^-87. NaN goes through (hence the order of the maximum).
template <int degree>
inline Vec exp(Vec x) {
  return exp_bounded<degree>(maximum(broadcast(-87.0f), x), broadcast(1.0f), 0.0f);
}

// A sum down many rows of which little is left in the end: few rows in float32, which costs an addition each, and the
// rest in double.
class LongSum {
 public:
  void add(int64_t row, Vec x) {
    part_ += x;
    if (row % 8 == 7) flush();
  }
  void add_to(double* lanes) {
    flush();
    for (int i = 0; i < kLanes; ++i) lanes[i] += total_[i];
  }

 private:
  typedef double WideVec __attribute__((vector_size(8 * kLanes)));
  void flush() {
    total_ += __builtin_convertvector(part_, WideVec);
    part_ = Vec{};
  }
  Vec part_ = {};
  WideVec total_ = {};
};

// In double, like all that is computed once a word: the gradient of a cosine near 1 is a small difference of large
// terms.
template <class Value>
inline double lane_sum(const Value* p) {
  typedef Value Four __attribute__((vector_size(4 * sizeof(Value)), may_alias));
  typedef double WideFour __attribute__((vector_size(32)));
  WideFour sum = {};
  for (int i = 0; i < kPanel; i += 4) sum += __builtin_convertvector(*reinterpret_cast<const Four*>(p + i), WideFour);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace gloria::GLORIA_ISA
