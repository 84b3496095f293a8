// The gradient of the affinities, elementwise, and for the cosine the attention.
// Half a warp takes a row of a tile, a lane one slot of it: what belongs to a word is loaded once for all regions, and
// rows are read and written 16 bytes at a time.
//
// Limits, for an affinity: 4 bytes of memory without a cosine and 8 with one (1.3 and 2.7 ps at 3 TB/s), or 21 and 45
// instructions with no and with a norm over words (1.0 and 2.4 ps of an H100). Memory decides.
#pragma once

#include "attention.h"

namespace gloria_cuda {

using namespace gpu;

constexpr int kGradientThreads = 256, kRowsAtOnce = kGradientThreads / kSlots, kGradientRows = 64;
static_assert(kSlots == 16 && kRowsAtOnce == kKeptRows);

using Slot = float[kSlot];

template <class T, WordNorm kNorm, bool kCosine>
struct Gradient {
  const GradientProblem& p;
  const int lane, slot;
  int image, tile, length;
  // Of this lane's slot in the tile: which columns are words, and the lanes of this half that hold the same text.
  int words, first, last;
  Slot norms, shifts, of_affinity, means, of_product, product_means;

  DEVICE Gradient(const GradientProblem& p) : p(p), lane(thread() % 32), slot(lane % kSlots) {}

  DEVICE void run() {
    const int blocks_of_image = (p.kept.height + kGradientRows - 1) / kGradientRows;
    const int64_t items = static_cast<int64_t>(p.plan.counts[0]) * p.images * blocks_of_image;
#pragma unroll 1
    for (int64_t item = block(); item < items; item += blocks()) {
      const int run = static_cast<int>(item / (p.images * blocks_of_image));
      image = static_cast<int>(item / blocks_of_image % p.images);
      length = static_cast<int>(p.region_lengths[image]);
      const int first = static_cast<int>(item % blocks_of_image) * kGradientRows;
      const int left = p.kept.height - first, count = left < kGradientRows ? left : kGradientRows;
      const int from = p.plan.runs[run], span = p.plan.spans[run];
      if (span == 1) load_tile(from);
#pragma unroll 1
      for (int i = 0; i < count; i += kRowsAtOnce) {  // the same for all threads, so that a warp stays together
        const int row = first + i + thread() / kSlots;
        span == 1 ? short_row(row) : long_row(row, from, span);
      }
    }
  }

 private:
  // One row: s, the exponentials of the norm over words or what stands for them, e, gx.
  struct Row {
    Slot s, x, e, gx;
    float top, sum, inner;  // of the text
  };

  DEVICE int64_t plane() const { return p.images * p.kept.pitch; }
  DEVICE int64_t column() const { return (tile - p.kept.first_tile) * static_cast<int64_t>(kWords) + slot * kSlot; }
  DEVICE int64_t place(int row) const {
    return (static_cast<int64_t>(image) * p.kept.height + row) * p.kept.pitch + column();
  }

  DEVICE void load_tile(int number) {
    tile = number;
    const uint32_t continues = p.plan.continues[tile];
    first = last = slot, words = 0;
    while (first > 0 && (continues >> first & 1)) --first;
    while (last < kSlots - 1 && (continues >> (last + 1) & 1)) ++last;
#pragma unroll
    for (int i = 0; i < kSlot; ++i) words |= (p.plan.rows[tile * kWords + slot * kSlot + i] >= 0 ? 1 : 0) << i;
    load(norms, p.word_norms + tile * kWords + slot * kSlot);
    const int64_t at = image * p.kept.pitch + column();
    load(shifts, p.kept.statistics + kShift * plane() + at);
    load(means, p.kept.statistics + kMeanAffinity * plane() + at);
    load(of_affinity, p.coefficients + kOfAffinity * plane() + at);
    if constexpr (kCosine) {
      load(product_means, p.kept.statistics + kMeanProduct * plane() + at);
      load(of_product, p.coefficients + kOfProduct * plane() + at);
    }
  }
  DEVICE static void load(Slot& to, const float* from) {
#pragma unroll
    for (int i = 0; i < kSlot; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    }
  }
  DEVICE void load_kept(Slot& to, const void* matrix, int row) const {
    if constexpr (__is_same(T, Float16)) return load(to, static_cast<const float*>(matrix) + place(row));
    const uint4 eight = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(matrix) + place(row));
    const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) to[2 * i] = low<Float16>(pairs[i]), to[2 * i + 1] = high<Float16>(pairs[i]);
  }
  template <class Stored>
  DEVICE static void store(uint16_t* to, const Slot& v) {
    const uint4 eight{pack<Stored>(v[0], v[1]), pack<Stored>(v[2], v[3]), pack<Stored>(v[4], v[5]),
                      pack<Stored>(v[6], v[7])};
    store_global(to, eight);
  }

  // One value a lane becomes that of its whole text.
  template <class Join>
  DEVICE float over_text(float v, Join&& join) const {
#pragma unroll
    for (int step = 1; step < kSlots; step *= 2) {
      const float other = shuffle(v, lane - step);
      if (slot - step >= first) v = join(other, v);
    }
    return shuffle(v, lane - slot + last);
  }

  DEVICE void load_affinities(Row& r, int row) const {
    load_kept(r.s, p.kept.affinities, row);
    if constexpr (__is_same(T, Float16)) return;
    const float norm = p.kept.region_norms[static_cast<int64_t>(image) * p.kept.height + row];
#pragma unroll
    for (int i = 0; i < kSlot; ++i) r.s[i] = rounded_product(r.s[i], norms[i] * norm);
  }
  // x = exp(s - top) and its sum over the text; of a text of several tiles, of this one.
  DEVICE void exponentials(Row& r) const {
    float top = -as_float(0x7f800000u), sum = 0;
#pragma unroll
    for (int i = 0; i < kSlot; ++i)
      if (words >> i & 1) top = fmaxf(top, r.s[i]);
    r.top = over_text(top, larger);
#pragma unroll
    for (int i = 0; i < kSlot; ++i) sum += exponential(r, i);
    r.sum = over_text(sum, plus);
  }
  DEVICE float exponential(Row& r, int i) const {
    return r.x[i] = words >> i & 1 ? exp2_fast((r.s[i] - r.top) * kLog2e) : 0.f;
  }
  // The attention, and the gradient of its logits: 0 where one region has it all, since s and G a are the means then.
  DEVICE void attend(Row& r, int row) const {
    Slot products;
    if constexpr (kCosine) load_kept(products, p.kept.products, row);
    const float share = kNorm == WordNorm::kSoftmax ? 1 / r.sum : 1.f;
    float inner = 0;
#pragma unroll
    for (int i = 0; i < kSlot; ++i) {
      if constexpr (kNorm == WordNorm::kSoftmax)
        r.x[i] *= share;
      else
        r.x[i] = r.s[i];
      const float above = relative<true>(r.x[i], p.scale, shifts[i]);
      r.e[i] = row >= length ? 0.f : p.hard ? (above == 0 ? 1.f : 0.f) : exp2_fast(above);
      if constexpr (kCosine) r.e[i] = low<Float16>(pack<Float16>(r.e[i], 0.f));  // as its sums were taken
      float g = p.attention_scale * of_affinity[i] * (r.s[i] - means[i]);
      if constexpr (kCosine) g += of_product[i] * (products[i] - product_means[i]);
      // Behind the passes of a short image anything may be kept, NaN included.
      r.gx[i] = r.e[i] == 0 ? 0.f : r.e[i] * g;
      inner += r.x[i] * r.gx[i];
    }
    if constexpr (kNorm == WordNorm::kSoftmax) r.inner = over_text(inner, plus);
  }
  DEVICE void write(Row& r, int row) const {
    Slot gs;
#pragma unroll
    for (int i = 0; i < kSlot; ++i) {
      gs[i] = of_affinity[i] * r.e[i] + (kNorm == WordNorm::kSoftmax ? r.x[i] * (r.gx[i] - r.inner) : r.gx[i]);
      if (row >= length) gs[i] = 0;
    }
    store<T>(p.gradient + place(row), gs);
    if constexpr (kCosine) store<Float16>(p.attention + place(row), r.e);
  }

  DEVICE void short_row(int row) const {
    Row r;
    load_affinities(r, row);
    if constexpr (kNorm == WordNorm::kSoftmax) exponentials(r);
    attend(r, row);
    write(r, row);
  }
  // A text of several tiles: they are read once for the level of the region, once for the sum of x gx, and once more.
  DEVICE void long_row(int row, int from, int span) {
    Row r;
    float top = -as_float(0x7f800000u), sum = 0, inner = 0;
    if constexpr (kNorm == WordNorm::kSoftmax) {
#pragma unroll 1
      for (int i = 0; i < span; ++i) {
        load_tile(from + i);
        load_affinities(r, row);
        exponentials(r);
        const float best = fmaxf(top, r.top);
        sum = sum * exp2_fast((top - best) * kLog2e) + r.sum * exp2_fast((r.top - best) * kLog2e);
        top = best;
      }
#pragma unroll 1
      for (int i = 0; i < span; ++i) {
        attend_in(r, row, from + i, top, sum);
        inner += r.inner;
      }
    }
#pragma unroll 1
    for (int i = 0; i < span; ++i) {
      attend_in(r, row, from + i, top, sum);
      r.inner = inner;
      write(r, row);
    }
  }
  DEVICE void attend_in(Row& r, int row, int number, float top, float sum) {
    load_tile(number);
    load_affinities(r, row);
    r.top = top, r.sum = sum;
    if constexpr (kNorm == WordNorm::kSoftmax)
#pragma unroll
      for (int i = 0; i < kSlot; ++i) exponential(r, i);
    attend(r, row);
  }
};

template <class T, WordNorm kNorm, bool kCosine>
KERNEL LAUNCH_BOUNDS(kGradientThreads, 2) void affinity_gradient(const GRID_CONSTANT GradientProblem p) {
  Gradient<T, kNorm, kCosine>(p).run();
}

}  // namespace gloria_cuda
