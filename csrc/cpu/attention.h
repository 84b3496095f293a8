// The elementwise stages between the products: word normalization, attention, and their gradients, on C form tiles.
//
// A tile holds the affinities of one bin of texts (rows: words) with one image (lanes: regions). Sums over the words of
// a text run down the rows of a panel; sums over the regions are kept as 16 lanes a row and added up once.
#pragma once

#include <cmath>

#include "bins.h"
#include "tile.h"

namespace gloria::GLORIA_ISA {

// Attention scales up to here need no running maximum once the affinities are normalized. x is at most 1: as many
// powers of two as e^scale has are taken out, which costs no digits, so that e is about 1 at most and its squares fit
// whatever the regions' length.
constexpr float kBoundedScale = 16.0f;
constexpr float kNormEpsilon = 1e-8f;    // of the clipped L2 norm (SCAN)
constexpr double kCosineEpsilon = 1e-8;  // of the cosine: max(|c||t|, eps)
constexpr float kLeak = 0.1f;            // slope of the clipped L2 norm's LeakyReLU

// Everything about one tile that the stages share.
struct Tile {
  const BinText* texts;
  int64_t text_count;
  int64_t rows;        // words with padding
  int64_t regions;     // of this image
  float* affinity;     // s less `shift`
  const float* shift;  // [rows] <t, center of the image>
  float*
      normed;  // x = norm(s); the same memory as `affinity` where there is no norm, as `attention` where x is not kept
  float* attention;  // e, the attention without its denominator
  float* top;        // [rows][16] maximum of x
  float* sum;        // [rows][16] sum of e: the denominator
  float* dot;        // [rows][16] sum of e * (s - shift)
};

inline Vec sqrt(Vec x) {
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
inline Vec leaky(Vec s) { return s > 0.0f ? s : s * kLeak; }

// A square root of a sum of squares. Those of affinities beyond 1e19 overflow: they are summed once more by a smaller
// measure.
class Length {
 public:
  void add(Vec y) {
    const Vec small = y * 0x1p-64f;
    squares_ += y * y;
    small_squares_ += small * small;
  }
  Vec value() const { return squares_ < 1e38f ? sqrt(squares_) : sqrt(small_squares_) * 0x1p64f; }

 private:
  Vec squares_ = {}, small_squares_ = {};
};

// All ones in the lanes below `count`, to be and-ed; the padding of the last panel takes no part in the attention.
inline IVec lanes_below(int64_t count) {
  IVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < static_cast<int>(count < 0 ? 0 : count > kLanes ? kLanes : count);
}
inline Vec select(IVec mask, Vec x) { return reinterpret_cast<Vec>(mask & reinterpret_cast<IVec>(x)); }

inline void accumulate(const Tile& t, int64_t row, int part, Vec e, Vec s) {
  const int64_t at = row * kPanel + part * kLanes;
  store(t.sum + at, load(t.sum + at) + e);
  store(t.dot + at, load(t.dot + at) + e * s);
}

// `use(text, offset of the panel's lanes in a C form, part, valid)` for every text and register of lanes; `valid` masks
// what is no region. The sums of a text's rows stay in the first-level cache from panel to panel.
template <class Use>
inline void for_lanes(const Tile& t, Use use) {
  for (const BinText* text = t.texts; text != t.texts + t.text_count; ++text)
    for (int64_t p = 0; p < panels_of(t.regions); ++p)
      for (int part = 0; part < kParts; ++part) {
        const int64_t at = p * t.rows * kPanel + part * kLanes, left = t.regions - p * kPanel - part * kLanes;
        if (left >= kLanes)
          use(*text, at, part, [](Vec x) { return x; });
        else
          use(*text, at, part, [valid = lanes_below(left)](Vec x) { return select(valid, x); });
      }
}

// The words [begin, end) of one text in one register of lanes: y and a divisor with x = norm(s) = y / divisor. y is
// stored at `x`, where there is a norm.
template <class Operand, WordNorm norm>
inline Vec normalize(const float* s, const float* shift, float* x, int64_t begin, int64_t end) {
  if constexpr (norm == WordNorm::kSoftmax) {
    Vec top = load(s + begin * kPanel) + shift[begin];
    for (int64_t r = begin + 1; r < end; ++r) top = maximum(load(s + r * kPanel) + shift[r], top);
    Vec total = Vec{};
    for (int64_t r = begin; r < end; ++r) {
      const Vec y = exp<Operand::kExpDegree>(load(s + r * kPanel) + shift[r] - top);
      store(x + r * kPanel, y);
      total += y;
    }
    return total;
  } else if constexpr (norm == WordNorm::kClippedL2) {
    Length length;
    for (int64_t r = begin; r < end; ++r) {
      const Vec y = leaky(load(s + r * kPanel) + shift[r]);
      store(x + r * kPanel, y);
      length.add(y);
    }
    return length.value() + kNormEpsilon;
  } else {
    return broadcast(1.0f);
  }
}

// s -> x -> e, with the sums over the regions that the score needs. x is kept where `t.normed` and `t.attention`
// differ.
template <class Operand, WordNorm norm>
inline void attend_bounded(const Tile& t, float scale) {
  const bool keep = t.normed != t.attention;
  const float halvings = __builtin_rintf(scale * 1.44269504f);
  for_lanes(t, [&](const BinText& text, int64_t at, int part, auto valid) {
    const float* s = t.affinity + at;
    float *x = t.normed + at, *e = t.attention + at;
    const Vec factor = 1.0f / normalize<Operand, norm>(s, t.shift, x, text.begin, text.end), scaled = factor * scale;
    for (int64_t r = text.begin; r < text.end; ++r) {
      const Vec y = load(x + r * kPanel);
      const Vec ev = as_operand(Operand{}, valid(exp_bounded<Operand::kExpDegree>(y, scaled, halvings)));
      if (keep) store(x + r * kPanel, y * factor);
      store(e + r * kPanel, ev);
      accumulate(t, r, part, ev, load(s + r * kPanel));
    }
  });
}

// A bounded attention whose sum is less than this is lifted: an ordinary one is far above.
constexpr float kLeastSum = 0x1p-20f;

// Scales e of words that no region is near to by a power of two, so that their sum is about 1, whatever the reference:
// else the square of their context, and what is divided by it, leaves float32 where regions are short.
inline void lift_faint_words(const Tile& t) {
  for (int64_t r = 0; r < t.rows; ++r) {
    const float sum = lane_sum(t.sum + r * kPanel);
    if (!(sum > 0.0f && sum < kLeastSum)) continue;
    const float factor = std::ldexp(1.0f, -std::ilogb(sum));
    const auto lift = [&](float* values) {
      for (int part = 0; part < kParts; ++part) store(values + part * kLanes, load(values + part * kLanes) * factor);
    };
    for (float* sums : {t.sum, t.dot}) lift(sums + r * kPanel);
    for (int64_t p = 0; p < panels_of(t.regions); ++p) lift(t.attention + (p * t.rows + r) * kPanel);
  }
}

// The greater one, lane by lane; NaN wins, and stays.
inline Vec maximum_or_nan(Vec top, Vec x) { return (x > top) | (x != x) ? x : top; }

// The maximum of s over the panels, lane by lane, some rows at a time in registers.
inline void find_lane_maxima(const Tile& t) {
  constexpr int kTogether = 8;
  const int64_t whole = t.regions / kPanel;
  for (int64_t i = 0; i < t.rows * kPanel; i += kTogether * kLanes) {
    Vec top[kTogether];
    for (Vec& each : top) each = broadcast(-__builtin_inff());
    for (int64_t p = 0; p < whole; ++p)
      for (int j = 0; j < kTogether; ++j)
        top[j] = maximum_or_nan(top[j], load(t.affinity + p * t.rows * kPanel + i + j * kLanes));
    for (int j = 0; t.regions % kPanel != 0 && j < kTogether; ++j) {
      const IVec there = lanes_below(t.regions % kPanel - j % kParts * kLanes);
      const Vec x = load(t.affinity + whole * t.rows * kPanel + i + j * kLanes);
      top[j] = there ? maximum_or_nan(top[j], x) : top[j];
    }
    for (int j = 0; j < kTogether; ++j) store(t.top + i + j * kLanes, top[j]);
  }
}

// s -> x, and the maximum of x over the regions in the first lane of `top`; NaN wins.
template <class Operand, WordNorm norm>
inline void find_maxima(const Tile& t) {
  if constexpr (norm == WordNorm::kNone) {
    find_lane_maxima(t);
  } else {
    for (int64_t i = 0; i < t.rows * kPanel; ++i) t.top[i] = -__builtin_inff();
    for_lanes(t, [&](const BinText& text, int64_t at, int part, auto valid) {
      float* x = t.normed + at;
      const Vec divisor = normalize<Operand, norm>(t.affinity + at, t.shift, x, text.begin, text.end);
      const IVec there = reinterpret_cast<IVec>(valid(reinterpret_cast<Vec>(~IVec{})));
      for (int64_t r = text.begin; r < text.end; ++r) {
        float* top = t.top + r * kPanel + part * kLanes;
        // No reciprocal, whose rounding a steep attention would show: a text of one word has x = 1.
        const Vec xv = load(x + r * kPanel) / divisor;
        store(x + r * kPanel, xv);
        store(top, there ? maximum_or_nan(load(top), xv) : load(top));
      }
    });
  }
  for (const BinText* text = t.texts; text != t.texts + t.text_count; ++text)
    for (int64_t r = text->begin; r < text->end; ++r) {
      float* top = t.top + r * kPanel;
      for (int half = kPanel / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i)
          top[i] = top[i + half] > top[i] || top[i + half] != top[i + half] ? top[i + half] : top[i];
    }
}

// The same as `attend_bounded` with the maximum over the regions subtracted.
template <class Operand, WordNorm norm>
inline void attend_by_maximum(const Tile& t, float scale) {
  find_maxima<Operand, norm>(t);
  for_lanes(t, [&](const BinText& text, int64_t at, int part, auto valid) {
    for (int64_t r = text.begin; r < text.end; ++r) {
      const Vec top = broadcast(t.top[r * kPanel]);
      const Vec xv = load(t.normed + at + r * kPanel);
      const Vec below = (xv - top) * scale;
      // Nothing, not e^-87, so that no scale can make something of it.
      const Vec soft = below < -87.0f ? Vec{} : exp<Operand::kExpDegree>(below);
      const Vec ev = as_operand(Operand{}, valid(soft));
      accumulate(t, r, part, ev, load(t.affinity + at + r * kPanel));
      store(t.attention + at + r * kPanel, ev);
    }
  });
}

inline bool is_bounded(const Problem& problem) {
  return problem.word_norm != WordNorm::kNone && problem.attention_scale <= kBoundedScale;
}

template <class Operand, WordNorm norm>
inline void attend(const Problem& problem, const Tile& t) {
  if (is_hard(problem)) return find_maxima<Operand, norm>(t);
  std::memset(t.sum, 0, t.rows * kPanel * 4);
  std::memset(t.dot, 0, t.rows * kPanel * 4);
  if (!is_bounded(problem)) return attend_by_maximum<Operand, norm>(t, problem.attention_scale);
  attend_bounded<Operand, norm>(t, problem.attention_scale);
  lift_faint_words(t);
}

// Per word: ds_ij = alpha e_ij + (norm backward of dx_ij), dx_ij = scale * e_ij * (alpha (s_ij - mean s) + beta (h_ij -
// mean h)), with h = e G (cosine) and means weighted by the attention: where one region has all of it, dx is exactly
// zero. A smooth maximum has ds_ij = alpha e_ij.
struct WordGradient {
  float alpha, beta, mean_s, mean_h;
  float rest;    // what the rounding of the means left: of a steep attention nothing else may be left in the end
  float level;   // taken out of e, where ds is nearly the same for all regions: see flat.h
  float length;  // of the word
};

// What is left of sum e (alpha (s - mean s) + beta (h - mean h)) of the word in row `r`, which is none but for
// rounding. `h` is null for the dot similarity.
inline double left_over(const Tile& t, const WordGradient& w, const float* h, int64_t r) {
  LongSum total;
  for (int64_t p = 0; p < panels_of(t.regions); ++p)
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = (p * t.rows + r) * kPanel + part * kLanes;
      Vec inner = (load(t.affinity + at) - w.mean_s) * w.alpha - w.rest;
      if (h) inner += (load(h + at) - w.mean_h) * w.beta;
      total.add(p, load(t.attention + at) * inner);
    }
  alignas(64) double lanes[kPanel] = {};
  total.add_to(lanes);
  return lane_sum(lanes);
}

// Writes ds, less alpha `level`, over h, which is ignored (and may hold anything) for the dot similarity. With
// `totals`, columns[j] += the sum of ds over the words, each times its length.
template <WordNorm norm, bool cosine, bool totals>
inline void affinity_gradient(const Problem& problem, const Tile& t, const WordGradient* words, float* h,
                              double* columns) {
  const float scale = problem.smooth_max ? 0.0f : problem.attention_scale;
  for_lanes(t, [&](const BinText& text, int64_t at, int part, auto valid) {
    const float *s = t.affinity + at, *x = t.normed + at, *e = t.attention + at;
    float* out = h + at;
    const auto gradient_of_x = [&](int64_t r) {
      const WordGradient& w = words[r];
      Vec inner = (load(s + r * kPanel) - w.mean_s) * w.alpha - w.rest;
      if constexpr (cosine) inner += (load(out + r * kPanel) - w.mean_h) * w.beta;
      return load(e + r * kPanel) * scale * inner;
    };
    LongSum column;
    const auto write = [&](int64_t r, Vec ds) {
      ds += valid(load(e + r * kPanel) - words[r].level) * words[r].alpha;
      store(out + r * kPanel, ds);
      if constexpr (totals) column.add(r, ds * words[r].length);
    };
    if constexpr (norm == WordNorm::kNone) {
      for (int64_t r = text.begin; r < text.end; ++r) write(r, gradient_of_x(r));
    } else if constexpr (norm == WordNorm::kSoftmax) {
      Vec total = Vec{};  // sum over the words of x dx
      for (int64_t r = text.begin; r < text.end; ++r) {
        const Vec dx = gradient_of_x(r);
        store(out + r * kPanel, dx);
        total += load(x + r * kPanel) * dx;
      }
      for (int64_t r = text.begin; r < text.end; ++r) write(r, load(x + r * kPanel) * (load(out + r * kPanel) - total));
    } else {
      Length of_y;
      Vec total = Vec{};  // <x, dx> over the words; y = leaky(s)
      for (int64_t r = text.begin; r < text.end; ++r) {
        const Vec dx = gradient_of_x(r);
        store(out + r * kPanel, dx);
        of_y.add(leaky(load(s + r * kPanel) + t.shift[r]));
        total += load(x + r * kPanel) * dx;
      }
      const Vec length = of_y.value(), scaled = 1.0f / (length + kNormEpsilon);
      const Vec along = length > 0.0f ? total / length : Vec{};
      for (int64_t r = text.begin; r < text.end; ++r) {
        const Vec dy = load(out + r * kPanel) * scaled - load(x + r * kPanel) * along;
        write(r, load(s + r * kPanel) + t.shift[r] > 0.0f ? dy : dy * kLeak);
      }
    }
    if constexpr (totals) column.add_to(columns + at / (t.rows * kPanel) * kPanel + part * kLanes);
  });
}

// dL / d attention_scale of the words of one tile: sum of e x (alpha (s - mean s) + beta (h - mean h)). Any number may
// be taken off x, since the rest sums to zero over the regions.
template <WordNorm norm, bool cosine>
inline double scale_gradient(const Tile& t, const WordGradient* words, const float* h) {
  LongSum total;
  for_lanes(t, [&](const BinText& text, int64_t at, int, auto) {
    for (int64_t r = text.begin; r < text.end; ++r) {
      const WordGradient& w = words[r];
      const Vec above = load(t.affinity + at + r * kPanel) - w.mean_s;
      Vec inner = above * w.alpha - w.rest;
      if constexpr (cosine) inner += (load(h + at + r * kPanel) - w.mean_h) * w.beta;
      const Vec x = norm == WordNorm::kNone ? above : load(t.normed + at + r * kPanel);
      total.add(r, load(t.attention + at + r * kPanel) * inner * x);
    }
  });
  alignas(64) double lanes[kPanel] = {};
  total.add_to(lanes);
  return lane_sum(lanes);
}

}  // namespace gloria::GLORIA_ISA
