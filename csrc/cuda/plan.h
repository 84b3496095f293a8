// Bringing texts together into tiles of words, on the device: long texts first, then tile after tile the largest text
// that still fits. Every tile but the last is more than half full. One block; the result does not depend on its
// threads.
#pragma once

#include "problem.h"
#include "ptx.h"

namespace gloria_cuda {

using namespace gpu;

constexpr int kPlanThreads = 256, kKinds = kSlots + 1;  // kind 0: longer than a tile; kind k: kSlots + 1 - k slots
constexpr uint32_t kPlanShared = (kPlanThreads + 1) * kKinds * 4;

DEVICE int kind_of(int64_t length) {
  return length > kWords ? 0 : kSlots + 1 - static_cast<int>((length + kSlot - 1) / kSlot);
}

// One thread: where each text goes, in the order of the kinds. `left`: shared memory, texts of each kind.
DEVICE void fill_tiles(const PlanProblem& p, uint32_t left) {
  const Plan& plan = p.plan;
  int tile = 0, runs = 0, next = 0;
  for (int longs = load_shared<int>(left); next < longs; ++next) {
    const int span = static_cast<int>((p.lengths[plan.order[next]] + kWords - 1) / kWords);
    const bool fits = tile + span <= plan.tiles;
    plan.places[next] = fits ? tile * kSlots : -1;
    if (fits) plan.runs[runs] = tile, plan.spans[runs++] = span, tile += span;
  }
  plan.counts[2] = runs;
  int waiting = p.texts - next;
  for (; waiting && tile < plan.tiles; ++tile) {
    int room = kSlots, position = next;
    for (int kind = 1; kind < kKinds && room; ++kind) {
      const int need = kSlots + 1 - kind, all = load_shared<int>(left + kind * 4);
      int done = load_shared<int>(left + (kKinds + kind) * 4);
      for (; done < all && need <= room; ++done, room -= need, --waiting)
        plan.places[position + done] = tile * kSlots + kSlots - room;
      store_shared(left + (kKinds + kind) * 4, done);
      position += all;
    }
    plan.runs[runs] = tile, plan.spans[runs++] = 1;
  }
  plan.counts[0] = runs, plan.counts[1] = tile;
  // Without room there is no column, and the score will be NaN.
  int position = next;
  for (int kind = 1; kind < kKinds; ++kind) {
    for (int i = load_shared<int>(left + (kKinds + kind) * 4); i < load_shared<int>(left + kind * 4); ++i)
      plan.places[position + i] = -1;
    position += load_shared<int>(left + kind * 4);
  }
}

KERNEL LAUNCH_BOUNDS(kPlanThreads, 1) void plan_tiles(const GRID_CONSTANT PlanProblem p) {
  const Plan& plan = p.plan;
  // Counts of each thread and kind; behind them, of each kind in all, and how many are placed.
  const uint32_t counts = shared_base(), own = counts + thread() * kKinds * 4,
                 totals = counts + kPlanThreads * kKinds * 4;
  for (int64_t i = thread(); i < static_cast<int64_t>(plan.tiles) * kWords; i += kPlanThreads) plan.rows[i] = -1;
  for (int64_t i = thread(); i < static_cast<int64_t>(plan.tiles) * kSlots; i += kPlanThreads) plan.slots[i] = -1;
  const int first = static_cast<int>(static_cast<int64_t>(p.texts) * thread() / kPlanThreads);
  const int last = static_cast<int>(static_cast<int64_t>(p.texts) * (thread() + 1) / kPlanThreads);
  for (int kind = 0; kind < kKinds; ++kind) store_shared(own + kind * 4, 0);
  for (int text = first; text < last; ++text) {
    const uint32_t at = own + kind_of(p.lengths[text]) * 4;
    store_shared(at, load_shared<int>(at) + 1);
  }
  sync_block();
  if (thread() < kKinds) {
    int sum = 0;
    for (int i = 0; i < kPlanThreads; ++i) {
      const uint32_t at = counts + (i * kKinds + thread()) * 4;
      const int count = load_shared<int>(at);
      store_shared(at, sum);
      sum += count;
    }
    store_shared(totals + thread() * 4, sum);
  }
  sync_block();
  for (int text = first; text < last; ++text) {
    const int kind = kind_of(p.lengths[text]);
    int position = load_shared<int>(own + kind * 4);
    store_shared(own + kind * 4, position + 1);
    for (int before = 0; before < kind; ++before) position += load_shared<int>(totals + before * 4);
    plan.order[position] = text;
  }
  sync_block();
  if (thread() == 0) {
    // The counts of the threads are no longer needed: their first rows keep the totals, and what is placed.
    for (int kind = 0; kind < kKinds; ++kind) {
      store_shared(counts + kind * 4, load_shared<int>(totals + kind * 4));
      store_shared(counts + (kKinds + kind) * 4, 0);
    }
    fill_tiles(p, counts);
  }
  sync_block();
  for (int i = thread(); i < p.texts; i += kPlanThreads) {
    const int text = plan.order[i], place = plan.places[i], length = static_cast<int>(p.lengths[text]);
    plan.columns[text] = place < 0 ? -1 : place * kSlot;
    if (place < 0) continue;
    for (int word = 0; word < length; ++word) plan.rows[place * kSlot + word] = static_cast<int>(p.starts[text]) + word;
    for (int slot = 0; slot * kSlot < length; ++slot) plan.slots[place + slot] = text;
  }
  sync_block();
  for (int tile = thread(); tile < plan.tiles; tile += kPlanThreads) {
    uint32_t continues = 0, real[4] = {0, 0, 0, 0};
    for (int slot = 1; slot < kSlots; ++slot) {
      const int text = plan.slots[tile * kSlots + slot];
      if (text < 0 || text == plan.slots[tile * kSlots + slot - 1]) continues |= 1u << slot;
    }
    for (int column = 0; column < kWords; ++column)
      if (plan.rows[tile * kWords + column] >= 0) real[column % 8 / 2] |= 1u << (column / 8 * 2 + column % 2);
    plan.continues[tile] = continues;
    for (int i = 0; i < 4; ++i) plan.real[tile * 4 + i] = real[i];
  }
}

}  // namespace gloria_cuda
