// What sm_90a adds, for the emulator: clusters, mbarriers, copies of tiles by the copy engine (TMA), products that run
// on their own (wgmma).
//
// Layouts: PTX ISA, "Asynchronous Warpgroup Level Matrix" (register fragments, 128-byte swizzle, matrix descriptor),
// and CuTe's MMA_Traits<SM90_64x128x16_F32BF16BF16_SS> with Swizzle<3,4,3> (two sources that agree). stmatrix: PTX ISA
// alone.
#pragma once

#include "instructions.h"

namespace emulated {

struct Barrier {
  Barrier(int index, int expected, const Thread& maker, const Known& nothing)
      : index(index),
        expected(expected),
        pending(expected),
        maker(maker.agent),
        made(maker.now),
        known(nothing),
        visible(nothing),
        released_known(nothing),
        released_visible(nothing) {}

  int index, expected, pending, maker;
  uint32_t made;
  bool published = false;  // by a fence behind its making: to copies, and to other CTAs
  int64_t bytes = 0;
  uint32_t phase = 0;
  Known known, visible;                    // gathered from those that arrived in this phase
  Known released_known, released_visible;  // of the last phase that is over
  std::vector<Thread*> waiters;
};

struct TensorWarp {
  struct Product {
    int group;
    std::function<void()> run;
  };
  struct Reading {
    int group;
    uint32_t full, bytes;
  };
  struct Accumulator {
    int group;
    std::vector<float> values;
  };
  std::vector<Product> queue;
  std::vector<Reading> readings;               // by products that nobody has waited for
  std::map<float*, Accumulator> accumulators;  // what registers in use will hold; the kernel sees NaN meanwhile
  int group = 0;
  uint32_t clock = 0;
  bool fenced = false;
};

struct Hopper {
  std::map<uint32_t, Barrier> barriers;
  std::vector<TensorWarp> warps;
  std::map<int, std::function<void()>> copies;
  int next_copy = 1 << 20;  // apart from the numbers of cp.async

  // One copy lands, or one product is done; which, is drawn.
  bool progress() {
    std::vector<int> choices;
    for (const auto& [number, land] : copies) choices.push_back(number);
    for (size_t warp = 0; warp < warps.size(); ++warp)
      if (!warps[warp].queue.empty()) choices.push_back(-1 - static_cast<int>(warp));
    if (choices.empty()) return false;
    const int choice = choices[machine->random() % choices.size()];
    if (choice > 0) {
      const auto land = std::move(copies[choice]);
      copies.erase(choice);
      land();
    } else {
      run_first(warps[-1 - choice]);
    }
    return true;
  }
  static void run_first(TensorWarp& warp) {
    const auto product = std::move(warp.queue.front());
    warp.queue.erase(warp.queue.begin());
    product.run();
  }
  std::string unfinished() const {
    if (!copies.empty()) return "a copy was under way at the end of the kernel";
    for (const auto& warp : warps)
      if (!warp.queue.empty()) return "a wgmma was under way at the end of the kernel";
    return "";
  }
};

inline Hopper& hopper() {
  if (!machine->extension) {
    auto made = std::make_shared<Hopper>();
    made->warps.resize(machine->warps.size());
    machine->progress = [raw = made.get()] { return raw->progress(); };
    machine->unfinished = [raw = made.get()] { return raw->unfinished(); };
    machine->extension = made;
  }
  return *static_cast<Hopper*>(machine->extension.get());
}

inline Known with(const Known& known, int agent, uint32_t when) {
  auto changed = std::make_shared<Clock>(*known);
  (*changed)[agent] = std::max((*changed)[agent], when);
  return changed;
}

inline void complete_if_due(Barrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.released_known = barrier.known, barrier.released_visible = barrier.visible;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  for (Thread* thread : barrier.waiters) thread->ready = true;
  barrier.waiters.clear();
}

}  // namespace emulated

namespace gpu {

using emulated::hopper;

inline int cluster_rank() { return self->cta; }
inline void sync_cluster() {
  auto& meeting = machine->named[{-1, 0}];
  meeting.expected = machine->threads * machine->ctas;
  int none = 0;
  machine->meet(meeting, "barrier.cluster", none, [](Members& members) { machine->synchronize(members); });
}
inline uint32_t of_cta(uint32_t address, int rank) { return address + (static_cast<uint32_t>(rank + 1) << 24); }

// mbarrier.
inline emulated::Barrier& barrier_at(uint32_t address) {
  const uint32_t full = machine->full(address, *self);
  const auto found = hopper().barriers.find(full);
  if (found == hopper().barriers.end()) machine->fail("no mbarrier" + emulated::SharedMemory::place(full));
  if (found->second.maker != self->agent && (*self->known)[found->second.maker] < found->second.made)
    machine->fail("an mbarrier is used before its making is known");
  if (machine->ended(static_cast<int>(full >> 24))) machine->fail("an mbarrier of a CTA that has ended");
  return found->second;
}
inline void barrier_init(uint32_t address, int count) {
  const uint32_t full = machine->full(address, *self);
  const int index = static_cast<int>(hopper().barriers.size());
  const auto nothing = std::make_shared<emulated::Clock>(machine->agents());
  hopper().barriers.emplace(full, emulated::Barrier(index, count, *self, nothing));
  machine->memory.make_barrier(full);
}
inline void fence_barrier_init() {
  for (auto& [full, barrier] : hopper().barriers) barrier.published |= barrier.maker == self->agent;
}
inline void barrier_arrive(uint32_t address, uint32_t bytes = 0) {
  auto& barrier = barrier_at(address);
  barrier.known = emulated::joined(barrier.known, machine->release(*self));
  barrier.visible = emulated::joined(barrier.visible, self->published);
  barrier.bytes += bytes;
  if (--barrier.pending < 0) machine->fail("more arrivals at an mbarrier than it expects");
  emulated::complete_if_due(barrier);
}
inline void barrier_expect(uint32_t address, uint32_t bytes) { barrier_arrive(address, bytes); }
inline void barrier_wait(uint32_t address, uint32_t parity) {
  auto& barrier = barrier_at(address);
  const uint32_t phase = barrier.phase;
  if ((phase & 1) == parity) {
    barrier.waiters.push_back(self);
    machine->block("mbarrier wait");
    if (barrier.phase > phase + 1) machine->fail("an mbarrier went on a whole phase while one waited");
  }
  self->known = emulated::joined(self->known, barrier.released_known);
  self->published = emulated::joined(self->published, barrier.released_visible);
}

// What ordinary accesses did and know becomes visible to copies and wgmma.
inline void fence_proxy_async() { self->published = emulated::joined(self->published, machine->release(*self)); }

// Tiles of a tensor of 16-bit values, rows of 128 bytes, swizzled; zeros where the tensor ends.
struct TensorMap {
  const uint8_t* base;
  uint64_t extent[3], stride[3];  // elements; bytes
  uint32_t box[3];
};
inline uint32_t swizzled(uint32_t place) { return place ^ (place >> 7 & 7) << 4; }
inline void land_tile(const TensorMap& map, uint32_t full, const uint64_t (&from)[3]) {
  for (uint32_t row = 0; row < map.box[1]; ++row)
    for (uint32_t k = 0; k < map.box[0]; ++k) {
      const bool inside = from[0] + k < map.extent[0] && from[1] + row < map.extent[1] && from[2] < map.extent[2];
      uint8_t* to = machine->memory.at((full & 0xff000000) | swizzled((full & 0xffffff) + row * 128 + k / 8 * 16), 16) +
                    k % 8 * 2;
      if (inside)
        std::memcpy(to, map.base + (from[0] + k) * 2 + (from[1] + row) * map.stride[1] + from[2] * map.stride[2], 2);
      else
        std::memset(to, 0, 2);
    }
}
inline void copy_tile(uint32_t to, const TensorMap& map, int x, int y, int z, uint32_t barrier, uint32_t ctas = 0) {
  const uint32_t bytes = map.box[0] * map.box[1] * 2;
  if (map.box[0] != 64 || to % 1024) machine->fail("a tile has rows of 128 bytes, from a multiple of 1024 on");
  counters.bytes_copied += bytes;  // a multicast reads once
  for (int cta = 0; cta < machine->ctas; ++cta) {
    if (ctas ? !(ctas >> cta & 1) : cta != self->cta) continue;
    const uint32_t full = (to & 0xffffff) + (static_cast<uint32_t>(cta) << 24);
    auto& done = barrier_at(of_cta(barrier, cta));
    if (!done.published) machine->fail("a copy signals an mbarrier that no fence has published");
    const int agent = machine->barrier_agent(done.index);
    machine->memory.check_write(
        full, bytes, {agent, self->agent / 32, self->now, *self->known, *self->published, "a copy of a tile", true});
    machine->stop_on_error();
    const int number = hopper().next_copy++;
    hopper().copies[number] = [=, &map, &done] {
      land_tile(map, full, {static_cast<uint64_t>(x), static_cast<uint64_t>(y), static_cast<uint64_t>(z)});
      machine->memory.written(full, bytes, agent, done.phase + 1, true);
      done.known = emulated::with(done.known, agent, done.phase + 1);
      done.visible = emulated::with(done.visible, agent, done.phase + 1);
      done.bytes -= bytes;
      emulated::complete_if_due(done);
    };
    machine->memory.take_off(full, bytes, number);
  }
}

// Four 8 x 8 matrices, each transposed: what lane l holds of row l / 4 goes to column l / 4 of rows 2 (l % 4), + 1.
inline void stmatrix_transposed(uint32_t address, const uint32_t (&r)[4]) {
  MatrixLanes mine{address, const_cast<uint32_t*>(r)};
  machine->meet_warp("stmatrix.trans", mine, [](Members& members) {
    count_rows(members);
    for (int lane = 0; lane < 32; ++lane) {
      auto& thread = *members[lane];
      const uint32_t row = static_cast<MatrixLanes*>(thread.argument)->address, full = machine->full(row, thread);
      if (row % 16) machine->memory.fail("misaligned stmatrix");
      machine->memory.check_write(full, 16, emulated::Machine::ordinary(thread, "stmatrix.trans"));
      for (int i = 0; i < 8; ++i) {
        const auto* from = static_cast<MatrixLanes*>(members[i * 4 + lane % 8 / 2]->argument);
        std::memcpy(machine->memory.at(full, 16) + 2 * i,
                    reinterpret_cast<const uint8_t*>(&from->registers[lane / 8]) + lane % 2 * 2, 2);
      }
      machine->memory.written(full, 16, thread.agent, thread.now, false);
    }
  });
}

// wgmma, both operands in shared memory along K: each of the four warps of a group does 16 of the 64 rows.
inline uint64_t descriptor(uint32_t address) {
  return (address & 0x3ffff) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
inline emulated::TensorWarp& tensor_warp() { return hopper().warps[self->agent / 32]; }
inline void wgmma_fence() {
  int none = 0;
  machine->meet_warp("wgmma.fence", none, [](Members&) { tensor_warp().fenced = true; });
}
inline void wgmma_commit() {
  int none = 0;
  machine->meet_warp("wgmma.commit", none, [](Members&) { ++tensor_warp().group; });
}
// One row of 16 values along K as the tensor core of `warp` reads it.
template <class T>
void operand_row(uint32_t cta, uint64_t descriptor, int row, const emulated::Clock& visible, int warp, int group,
                 float (&out)[16]) {
  if (descriptor >> 62 != 1 || (descriptor >> 49 & 7))
    machine->memory.fail("a descriptor of another form than 128-byte swizzle");
  const uint32_t start = (descriptor & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  for (int half = 0; half < 2; ++half) {
    const uint32_t full = cta << 24 | swizzled(start + row / 8 * stride + row % 8 * 128 + half * 16);
    machine->memory.read(full, 16,
                         {machine->tensor_agent(warp), warp, emulated::kPending, visible, visible, "wgmma", true});
    hopper().warps[warp].readings.push_back({group, full, 16});
    for (int i = 0; i < 8; ++i) {
      uint16_t bits;
      std::memcpy(&bits, machine->memory.at(full, 16) + 2 * i, 2);
      out[half * 8 + i] = T::value(bits);
    }
  }
}
template <class T, int kN>
void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  struct Mine {
    float* d;
    uint64_t a, b;
    bool accumulate;
  } mine{d, a, b, accumulate};
  machine->meet_warp("wgmma", mine, [&](Members& members) {
    counters.multiplications += 16 * kN * 16;
    auto& warp = tensor_warp();
    if (!warp.fenced) machine->memory.fail("wgmma without wgmma.fence before it");
    std::vector<float*> lanes;
    for (auto* each : members) {
      const auto* theirs = static_cast<Mine*>(each->argument);
      if (theirs->a != a || theirs->b != b || theirs->accumulate != accumulate)
        machine->memory.fail("the lanes of a wgmma differ");
      auto& held = warp.accumulators[theirs->d];
      if (held.values.empty()) {
        held.values.assign(theirs->d, theirs->d + kN / 2);
        std::fill(theirs->d, theirs->d + kN / 2, std::numeric_limits<float>::quiet_NaN());
      }
      held.group = warp.group;
      lanes.push_back(theirs->d);
    }
    const emulated::Thread& first = *members[0];
    const int number = first.agent / 32, rows = first.index / 32 % 4 * 16, group = warp.group;
    const uint32_t cta = first.cta;
    warp.queue.push_back({group, [=, &warp, visible = first.published] {
                            float left[16][16], right[kN][16];
                            for (int row = 0; row < 16; ++row)
                              operand_row<T>(cta, a, rows + row, *visible, number, group, left[row]);
                            for (int row = 0; row < kN; ++row)
                              operand_row<T>(cta, b, row, *visible, number, group, right[row]);
                            for (int lane = 0; lane < 32; ++lane) {
                              auto& values = warp.accumulators[lanes[lane]].values;
                              for (int i = 0; i < kN / 2; ++i) {
                                const float *x = left[lane / 4 + i / 2 % 2 * 8],
                                            *y = right[i / 4 * 8 + lane % 4 * 2 + i % 2];
                                float sum = 0;
                                for (int k = 0; k < 16; ++k) sum += x[k] * y[k];
                                values[i] = (accumulate ? values[i] : 0) + sum;
                              }
                            }
                          }});
  });
}
// Only the accumulators that are named may be read afterwards.
template <int kLeft, int... kCounts>
void wgmma_wait(float (&... d)[kCounts]) {
  std::vector<float*> named{d...};
  machine->meet_warp("wgmma.wait", named, [](Members& members) {
    auto& warp = tensor_warp();
    const int number = members[0]->agent / 32, agent = machine->tensor_agent(number), done = warp.group - kLeft;
    while (!warp.queue.empty() && warp.queue.front().group < done) emulated::Hopper::run_first(warp);
    // Every lane now knows that what those products read has been read.
    ++warp.clock;
    for (auto* each : members) each->known = emulated::with(each->known, agent, warp.clock);
    for (const auto& reading : warp.readings)
      if (reading.group < done) machine->memory.settle_read(reading.full, reading.bytes, number, agent, warp.clock);
    for (const auto& reading : warp.readings)
      if (reading.group >= done)
        machine->memory.settle_read(reading.full, reading.bytes, number, agent, emulated::kPending);
    warp.readings.erase(
        std::remove_if(warp.readings.begin(), warp.readings.end(), [&](const auto& each) { return each.group < done; }),
        warp.readings.end());
    for (auto* each : members)
      for (float* registers : *static_cast<std::vector<float*>*>(each->argument)) {
        const auto held = warp.accumulators.find(registers);
        if (held == warp.accumulators.end()) continue;
        if (held->second.group >= done)
          machine->memory.fail("an accumulator is named that a wgmma under way still writes");
        std::copy(held->second.values.begin(), held->second.values.end(), registers);
        warp.accumulators.erase(held);
      }
    warp.fenced = false;
  });
}
template <int kCount>
void more_registers() {}
template <int kCount>
void fewer_registers() {}

}  // namespace gpu
