// From affinities to attention, in the registers of a warp that holds 16 regions x kN slots of words, a tile's 16 or
// half of them: the layout of accumulators is the same for mma.sync and for wgmma. Element 2 r + e of slot n is region
// lane / 4 + 8 r and word 8 n + 2 (lane % 4) + e.
#pragma once

#include <type_traits>

#include "problem.h"
#include "ptx.h"

namespace gloria_cuda {

using namespace gpu;

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kNothing = -1e38f;  // as a maximum: below every affinity, and finite
DEVICE float infinity() { return as_float(0x7f800000u); }

template <int kN>
using Block = float[kN][4];
template <int kN>
using Columns = float[2 * kN];  // one value for each word that a lane holds: 2 n + e
template <int kN>
using Folded = float[kN / 4];  // what `fold` leaves of them

// Which columns of a warp are words, and where its texts end; the same for all lanes of a quad, and of a warp.
struct Texts {
  uint32_t real, continues;
  DEVICE bool is_real(int column) const { return real >> column & 1; }
  DEVICE bool goes_on(int slot) const { return continues >> slot & 1; }
  // The same, unknown to the assembler: it tests a bit by one instruction, and would take two to keep what it found for
  // the next region.
  DEVICE Texts anew() const { return {as_bits(shuffle(as_float(real), thread() % 32)), continues}; }
};
DEVICE Texts texts_of(const Plan& plan, int tile) { return {plan.real[tile * 4 + thread() % 4], plan.continues[tile]}; }

DEVICE float larger(float a, float b) { return fmaxf(a, b); }
DEVICE float plus(float a, float b) { return a + b; }

// One value a slot becomes that of its whole text, in all four lanes that hold the region; of kR regions at once, since
// it is the texts that are asked about.
template <int kR, int kN, class Join>
DEVICE void over_texts(float (&v)[kR][kN], const Texts& texts, Join&& join) {
  auto of_each = [&](int n, auto&& change) {
#pragma unroll
    for (int i = 0; i < kR; ++i) v[i][n] = change(v[i]);
  };
#pragma unroll
  for (int n = 1; n < kN; ++n)
    if (texts.goes_on(n)) of_each(n, [&](const float* own) { return join(own[n - 1], own[n]); });
#pragma unroll
  for (int n = 0; n < kN; ++n)
    if (n == kN - 1 || !texts.goes_on(n + 1)) {  // the same for the warp: most slots need no exchange
      of_each(n, [&](const float* own) { return join(own[n], shuffle_xor(own[n], 1)); });
      of_each(n, [&](const float* own) { return join(own[n], shuffle_xor(own[n], 2)); });
    }
#pragma unroll
  for (int n = kN - 2; n >= 0; --n)
    if (texts.goes_on(n + 1)) of_each(n, [&](const float* own) { return own[n + 1]; });
}

// The maximum of the words of a text, and the sum of their exponentials relative to it.
struct Level {
  float top, sum;
  DEVICE Level join(const Level& other) const {
    const float best = fmaxf(top, other.top);
    return {best, sum * exp2_fast((top - best) * kLog2e) + other.sum * exp2_fast((other.top - best) * kLog2e)};
  }
};

// What a warp has to do with others while it makes its logits: it may share texts with one, and turn to something else
// once it has the maxima of the texts. Here, nothing.
struct NoOthers {
  static constexpr bool kExist = false;
  DEVICE void between() const {}
  template <int kR, int kN>
  DEVICE void share(const float (&)[kR][kN], float (&)[kR][kN]) const {}
};

// Of kR regions from r on, e = exp(s - its maximum over the words of the text that are here), and their sum: the
// maximum is that of the text alone, so that no text is stabilized by another. `kPart`: there may be none here.
template <bool kPart, int kR, int kN, class Others>
DEVICE void word_exponentials(const Block<kN>& s, int r, Texts texts, const Others& others, Columns<kN> (&e)[kR],
                              float (&top)[kR][kN], float (&sum)[kR][kN]) {
  texts = texts.anew();
#pragma unroll
  for (int i = 0; i < kR; ++i)
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      float* pair = e[i] + 2 * n;
#pragma unroll
      for (int j = 0; j < 2; ++j) pair[j] = texts.is_real(2 * n + j) ? s[n][2 * (r + i) + j] : -infinity();
      top[i][n] = fmaxf(pair[0], pair[1]);
    }
  over_texts(top, texts, larger);
  others.between();
#pragma unroll
  for (int i = 0; i < kR; ++i)
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      if constexpr (kPart) top[i][n] = fmaxf(top[i][n], kNothing);
      const float shift = top[i][n] * kLog2e;
      float* pair = e[i] + 2 * n;
      pair[0] = exp2_fast(pair[0] * kLog2e - shift), pair[1] = exp2_fast(pair[1] * kLog2e - shift);
      sum[i][n] = pair[0] + pair[1];
    }
  over_texts(sum, texts, plus);
}

// The logits of kR regions of a lane from r on, times `scale`, are x * weight.
// `level`: of a text that fills several tiles, which then is the only one here; else null.
template <WordNorm kNorm, int kR, int kN, class Others>
DEVICE void logits(const Block<kN>& s, int r, const Texts& texts, const Others& others, float scale, const Level* level,
                   Columns<kN> (&x)[kR], float (&weight)[kR][kN]) {
  if constexpr (kNorm == WordNorm::kNone) {
#pragma unroll
    for (int i = 0; i < kR; ++i)
#pragma unroll
      for (int n = 0; n < kN; ++n)
        x[i][2 * n] = s[n][2 * (r + i)], x[i][2 * n + 1] = s[n][2 * (r + i) + 1], weight[i][n] = scale;
  } else if (level) {
#pragma unroll
    for (int i = 0; i < kR; ++i) {
      const float shift = level[8 * i].top * kLog2e, share = scale * reciprocal(level[8 * i].sum);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
          x[i][2 * n + j] = texts.is_real(2 * n + j) ? exp2_fast(s[n][2 * (r + i) + j] * kLog2e - shift) : 0.f;
        weight[i][n] = share;
      }
    }
  } else {
    float top[kR][kN];
    word_exponentials<Others::kExist>(s, r, texts, others, x, top, weight);
    others.share(top, weight);
#pragma unroll
    for (int i = 0; i < kR; ++i)
#pragma unroll
      for (int n = 0; n < kN; ++n) weight[i][n] = reciprocal(weight[i][n]) * scale;
  }
}

// A logit less what is subtracted. `kExact`: exactly 0 at the maximum, and so its attention 1 and, where it has it all,
// the mean of s by the attention s itself.
template <bool kExact>
DEVICE float relative(float x, float weight, float shift) {
  return kExact ? rounded_product(x, weight) - shift : x * weight - shift;
}

template <int kHalf, int kValues, class Join>
DEVICE void fold_by(float (&v)[kValues], bool upper, int lanes, Join&& join) {
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float send = upper ? v[i] : v[i + kHalf], keep = upper ? v[i + kHalf] : v[i];
    v[i] = join(keep, shuffle_xor(send, lanes));
  }
}
// Joins v over the eight lanes that hold the same words: lane l is left with the first values, those of the slots
// from l / 4 * kN / 8 on.
template <int kValues, class Join>
DEVICE void fold(float (&v)[kValues], Join&& join) {
  fold_by<kValues / 2>(v, thread() & 16, 16, join);
  fold_by<kValues / 4>(v, thread() & 8, 8, join);
  fold_by<kValues / 8>(v, thread() & 4, 4, join);
}
// Where the pairs of columns that `fold` leaves to this lane stand in a row of floats.
template <int kFolded>
DEVICE uint32_t folded_place(int pair) {
  return ((thread() % 32 / 4 * (kFolded / 2) + pair) * kSlot + thread() % 4 * 2) * 4;
}
template <int kFolded>
DEVICE void store_folded(const float (&v)[kFolded], uint32_t row) {
#pragma unroll
  for (int i = 0; i < kFolded / 2; ++i) store_shared(row + folded_place<kFolded>(i), float2{v[2 * i], v[2 * i + 1]});
}
template <int kFolded>
DEVICE void load_folded(float (&v)[kFolded], uint32_t row) {
#pragma unroll
  for (int i = 0; i < kFolded / 2; ++i) {
    const float2 pair = load_shared<float2>(row + folded_place<kFolded>(i));
    v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
  }
}
// What was summed relative to the shifts in one row of floats, relative to those in another. Both may be infinite.
DEVICE float factor(float before, float now) { return before == now ? 1.f : exp2_fast(before - now); }
template <int kFirst, int kSecond = kFirst, int kFolded>
DEVICE void rescale_sums(float (&first)[kFolded], float (&second)[kFolded], uint32_t before_row, uint32_t now_row) {
  float before[kFolded], now[kFolded];
  load_folded(before, before_row), load_folded(now, now_row);
#pragma unroll
  for (int i = 0; i < kFolded; ++i) {
    const float f = factor(before[i], now[i]);
    first[i] *= kFirst == 2 ? f * f : f, second[i] *= kSecond == 2 ? f * f : f;
  }
}
template <int kN>
DEVICE void rescale_block(Block<kN>& y, uint32_t before_row, uint32_t now_row) {
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const uint32_t place = (n * kSlot + thread() % 4 * 2) * 4;
    const float2 before = load_shared<float2>(before_row + place), now = load_shared<float2>(now_row + place);
    const float f[2] = {factor(before.x, now.x), factor(before.y, now.y)};
#pragma unroll
    for (int i = 0; i < 4; ++i) y[n][i] *= f[i % 2];
  }
}
template <int kFolded, int kValues>
DEVICE void add_folded(float (&sums)[kFolded], float (&v)[kValues]) {
  fold(v, plus);
#pragma unroll
  for (int i = 0; i < kFolded; ++i) sums[i] += v[i];
}
template <int kCount, class Join>
DEVICE float joined_rows(uint32_t rows, int column, Join&& join) {
  float value = load_shared<float>(rows + column * 4);
#pragma unroll
  for (int i = 1; i < kCount; ++i) value = join(value, load_shared<float>(rows + (i * kWords + column) * 4));
  return value;
}
// Which tile with which image: neighbors in time share both.
struct Item {
  int image, run;
};
DEVICE Item item_of(int64_t item, int runs, int images) {
  const int64_t group = item / (static_cast<int64_t>(runs) * kImagesAtOnce);
  const int first = static_cast<int>(group) * kImagesAtOnce,
            count = images - first < kImagesAtOnce ? images - first : kImagesAtOnce;
  const int64_t rest = item - group * runs * kImagesAtOnce;
  return {first + static_cast<int>(rest % count), static_cast<int>(rest / count)};
}
DEVICE uint8_t& cancelled(const ForwardProblem& p, const Item& item) {
  return p.cancelled[static_cast<int64_t>(item.image) * p.plan.tiles + item.run];
}

// A condition of a branch that is never taken. The assembler schedules up to a branch only; what it would do at once
// without it would take more registers than there are.
DEVICE bool never(const ForwardProblem& p) { return p.images == 0; }
// 1, which the assembler does not know: a product by it is made where it stands, and a copy when the next comes over
// it.
DEVICE float one(const ForwardProblem& p) { return never(p) ? 2.f : 1.f; }

// Where backward keeps what belongs to a region and this lane's words from a column on.
template <class T>
struct KeptRow {
  static constexpr bool kWide = __is_same(T, Float16);
  using Pair = std::conditional_t<kWide, float2, uint32_t>;
  Pair* at;
  float norm = 0;  // of the region

  DEVICE KeptRow(const ForwardProblem& p, void* matrix, int image, int region, int column) : at(nullptr) {
    if (region >= p.kept.height) return;
    const int row = image * p.kept.height + region;  // a chunk has not 2^31
    norm = p.kept.region_norms[row];
    column += thread() % 4 * 2 - p.kept.first_tile * kWords;
    at = static_cast<Pair*>(matrix) + (static_cast<int64_t>(row) * p.kept.pitch + column) / 2;
  }
  // Stores the words of slot n, which become what is kept.
  DEVICE void store(int n, float& x, float& y) const {
    if constexpr (kWide) {
      if (at) at[n * kSlot / 2] = {x, y};
    } else {
      const uint32_t pair = pack<Float16>(x, y);
      if (at) at[n * kSlot / 2] = pair;
      x = low<Float16>(pair), y = high<Float16>(pair);
    }
  }
};
// Keeps the affinities of regions `region` and eight behind it, so that the attention, its sums and its gradient see
// the same ones.
template <class T, int kN>
DEVICE void keep_affinities(const ForwardProblem& p, int image, int region, int column, Block<kN>& s) {
  const float* norms = p.word_norms + column + thread() % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (r && never(p)) return;
    const KeptRow<T> row(p, p.kept.affinities, image, region + 8 * r, column);
    const float inverse = row.norm == 0 ? 0.f : reciprocal(row.norm);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      float &x = s[n][2 * r], &y = s[n][2 * r + 1];
      if constexpr (KeptRow<T>::kWide) {
        row.store(n, x, y);
      } else {
        const float2 of_words = *reinterpret_cast<const float2*>(norms + n * kSlot);
        x *= inverse * (of_words.x == 0 ? 0.f : reciprocal(of_words.x));
        y *= inverse * (of_words.y == 0 ? 0.f : reciprocal(of_words.y));
        row.store(n, x, y);
        x = rounded_product(x, of_words.x * row.norm), y = rounded_product(y, of_words.y * row.norm);
      }
    }
  }
}

// Keeps G a, divided by the sums of the attention: those of a s and of a stand side by side in a row of shared memory.
template <class T, int kN>
DEVICE void keep_products(const ForwardProblem& p, int image, int region, int column, uint32_t sums, Block<kN>& y) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const KeptRow<T> row(p, p.kept.products, image, region + 8 * r, column);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float4 two = load_shared<float4>(sums + (n * kSlot + thread() % 4 * 2) * 8);
      y[n][2 * r] *= reciprocal(two.y), y[n][2 * r + 1] *= reciprocal(two.w);
      row.store(n, y[n][2 * r], y[n][2 * r + 1]);
    }
  }
}

DEVICE float& statistic(const ForwardProblem& p, int which, int image, int tile, int column) {
  const Kept& kept = p.kept;
  return kept.statistics[(static_cast<int64_t>(which) * p.images + image) * kept.pitch +
                         (tile - kept.first_tile) * kWords + column];
}

// The similarity of a word from d = sum a s, l = sum a, and for the cosine from c2 = |sum a v|^2 and q = sum a^2 |v|^2,
// both scaled.
template <bool kKeep>
DEVICE void finish(const ForwardProblem& p, const Item& item, int tile, int column, float d, float l, float c2, float q,
                   float shift) {
  if (p.plan.rows[tile * kWords + column] < 0) return;
  float& similarity = p.similarities[(static_cast<int64_t>(item.image) * p.plan.tiles + tile) * kWords + column];
  if (p.norm == Norm::kDirectWhereCancelled && similarity != kCancelled) return;
  float u = d / l;
  if (p.norm != Norm::kNone) {
    const float context = sqrtf(fmaxf(c2, 0.f)) * p.unscale[item.image] / l;
    if (kKeep) statistic(p, kContextNorm, item.image, tile, column) = context;
    u /= fmaxf(context * p.word_norms[tile * kWords + column], 1e-8f);
    if (p.norm == Norm::kGram && c2 < kTrusted * q) u = kCancelled, cancelled(p, item) = 1;
  }
  similarity = u;
  if (!kKeep || p.norm == Norm::kDirectWhereCancelled) return;
  statistic(p, kShift, item.image, tile, column) = shift;
  statistic(p, kExponentials, item.image, tile, column) = l;
  statistic(p, kMeanAffinity, item.image, tile, column) = d / l;
  statistic(p, kMeanProduct, item.image, tile, column) = c2 / (l * l);
}

}  // namespace gloria_cuda
