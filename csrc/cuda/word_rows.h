// Where nothing is normalized over words and the similarity is the dot product, a word has nothing to do with the
// others: words are rows then, and regions columns, so that the attention of a word stays in the four lanes that hold
// its row. The layout of accumulators is the same for mma.sync and for wgmma: element 2 r + e of block n is word
// lane / 4 + 8 r and region 8 n + 2 (lane % 4) + e.
#pragma once

#include "attention.h"

namespace gloria_cuda {

// Of a region that is none: below all affinities, and finite, since its attention 0 is multiplied by it.
constexpr float kNone = -3.4e38f;

// The attention of a word over the regions that were seen: the largest affinity, the sum of the exponentials relative
// to it, and that of their products with the affinities.
struct Seen {
  float top = kNone, sum = 0, weighted = 0;

  DEVICE void raise(float best, const ForwardProblem& p) {
    // Of the hard maximum nothing remains of what was lower.
    const float f =
        p.hard ? (top == best ? 1.f : 0.f) : factor(rounded_product(top, p.scale), rounded_product(best, p.scale));
    top = best, sum = rounded_product(sum, f), weighted = rounded_product(weighted, f);
  }
  template <bool kExact, bool kHard, int kBlocks>
  DEVICE void add(const float (&s)[kBlocks][4], int r, const ForwardProblem& p) {
    float best = top;
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) best = fmaxf(best, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    raise(best, p);
    // A lane may have seen nothing yet.
    const float shift = top == kNone ? 0.f : rounded_product(top, p.scale);
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x = s[n][2 * r + i], above = relative<kExact>(x, p.scale, shift);
        const float a = kHard ? (above == 0 ? 1.f : 0.f) : exp2_fast(above);
        sum += a, weighted = fmaf(a, x, weighted);
      }
  }
  DEVICE void join(Seen other, const ForwardProblem& p) {
    const float best = fmaxf(top, other.top);
    raise(best, p), other.raise(best, p);
    sum += other.sum, weighted += other.weighted;
  }
  DEVICE void join_lanes(const ForwardProblem& p) {
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2)
      join({shuffle_xor(top, mask), shuffle_xor(sum, mask), shuffle_xor(weighted, mask)}, p);
  }
};

// What of the columns of `s` is behind `real` becomes none.
template <int kBlocks>
DEVICE void hide(float (&s)[kBlocks][4], int real) {
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
    if (real < n * 8 + 8)  // the same for the warp
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (n * 8 + thread() % 4 * 2 + i % 2 >= real) s[n][i] = kNone;
}

// Keeps the affinities of the words of this lane with regions from `region` on, so that the attention, its sums and its
// gradient see the same ones.
template <class T, int kBlocks>
DEVICE void keep_affinities(const ForwardProblem& p, int image, int tile, int column, int region,
                            float (&s)[kBlocks][4]) {
  using Value = std::conditional_t<__is_same(T, Float16), float, uint16_t>;
  region += thread() % 4 * 2;
  const int64_t first = static_cast<int64_t>(image) * p.kept.height + region;
  Value* to =
      static_cast<Value*>(p.kept.affinities) + first * p.kept.pitch + (tile - p.kept.first_tile) * kWords + column;
  float of_words[2], inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    of_words[r] = p.word_norms[tile * kWords + column + 8 * r];
    inverse[r] = of_words[r] == 0 ? 0.f : reciprocal(of_words[r]);
  }
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (region + n * 8 >= p.kept.height) return;
      Value* at = to + (n * 8 + i) * p.kept.pitch;
      float &x = s[n][i], &y = s[n][2 + i];
      if constexpr (__is_same(T, Float16)) {
        at[0] = x, at[8] = y;
      } else {
        const float of_region = p.kept.region_norms[first + n * 8 + i];
        const float of_both = of_region == 0 ? 0.f : reciprocal(of_region);
        const uint32_t pair = gpu::pack<Float16>(x * of_both * inverse[0], y * of_both * inverse[1]);
        at[0] = static_cast<uint16_t>(pair), at[8] = static_cast<uint16_t>(pair >> 16);
        x = rounded_product(low<Float16>(pair), of_words[0] * of_region);
        y = rounded_product(high<Float16>(pair), of_words[1] * of_region);
      }
    }
}

// Adds affinities of words `column` and eight behind it, of which so many regions from `region` on are real.
template <class T, bool kKeep, int kBlocks>
DEVICE void attend(Seen (&seen)[2], float (&s)[kBlocks][4], const ForwardProblem& p, int image, int tile, int column,
                   int region, int real) {
  if constexpr (kKeep) keep_affinities<T>(p, image, tile, column, region, s);
  hide(s, real);
  if (p.hard)
    seen[0].add<true, true>(s, 0, p), seen[1].add<true, true>(s, 1, p);
  else
    seen[0].add<kKeep, false>(s, 0, p), seen[1].add<kKeep, false>(s, 1, p);
}

template <bool kKeep>
DEVICE void finish_word(const ForwardProblem& p, int image, int tile, int column, const Seen& seen) {
  float d = seen.weighted, l = seen.sum;
  if (!kKeep && p.hard && d == d) d = seen.top, l = 1;
  finish<kKeep>(p, {image, 0}, tile, column, d, l, 0, 0, rounded_product(seen.top, p.scale));
}

// Pairs of tiles with images, in the order in which they are taken.
struct WordWork {
  const ForwardProblem& p;
  int number;  // a chunk of images has not 2^31 of them
  DEVICE int tiles() const { return p.plan.counts[1]; }
  DEVICE int pairs() const { return (tiles() + 1) / 2; }
  DEVICE bool done() const { return number >= static_cast<int64_t>(pairs()) * p.images; }
  // `run` is the pair.
  DEVICE Item item() const { return item_of(number, pairs(), p.images); }
  // One of the pair; where there is none left, the last once more.
  DEVICE int tile(const Item& item, int which) const {
    const int place = 2 * item.run + which;
    return p.plan.runs[0] + (place < tiles() ? place : tiles() - 1);
  }
  DEVICE int length(const Item& item) const { return static_cast<int>(p.region_lengths[item.image]); }
};

}  // namespace gloria_cuda
