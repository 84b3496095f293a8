// The instructions of ../ptx_device.h as the PTX ISA describes them, for the emulator: same names, same arguments.
//
// Layouts of mma and ldmatrix: PTX ISA, sections "Matrix Fragments for mma.m16n8k16 with floating point type" and
// "ldmatrix", and CuTe's MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN> and Copy_Traits<SM75_U32x4_LDSM_{N,T}> (two sources
// that agree).
#pragma once

#include <cmath>

#include "machine.h"

#define KERNEL
#define DEVICE inline
#define GRID_CONSTANT
#define LAUNCH_BOUNDS(threads, blocks)

namespace gpu {

using emulated::counters;
using emulated::machine;
using emulated::self;
using Members = std::vector<emulated::Thread*>;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline int thread() { return self->index; }
inline int block() { return machine->first_block + self->cta; }
inline int blocks() { return machine->blocks; }
inline uint32_t shared_base() { return emulated::SharedMemory::kReserved; }

// Numbers.
inline float exp2_fast(float x) {
  ++counters.exponentials;
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.f : y;  // .ftz
}
inline float reciprocal(float x) { return 1.f / x; }
inline float rounded_product(float a, float b) {
  float product = a * b;
  asm("" : "+x"(product));
  return product;
}
inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t as_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
struct BFloat16 {
  static float value(uint16_t bits) { return as_float(static_cast<uint32_t>(bits) << 16); }
  static uint16_t bits(float x) {
    if (x != x) return 0x7fff;
    const uint32_t wide = as_bits(x);
    return static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
};
struct Float16 {
  static float value(uint16_t bits) {
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return static_cast<float>(half);
  }
  static uint16_t bits(float x) {
    const _Float16 half = static_cast<_Float16>(x);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
  }
};
template <class T>
uint32_t pack(float low, float high) {
  return T::bits(low) | static_cast<uint32_t>(T::bits(high)) << 16;
}
template <class T>
float low(uint32_t pair) {
  return T::value(static_cast<uint16_t>(pair));
}
template <class T>
float high(uint32_t pair) {
  return T::value(static_cast<uint16_t>(pair >> 16));
}
inline uint32_t product_of_halves(uint32_t a, uint32_t b) {
  return pack<Float16>(low<Float16>(a) * low<Float16>(b), high<Float16>(a) * high<Float16>(b));
}

template <class T>
T again(T x) {
  return x;
}

// Shared memory.
template <class T>
T load_shared(uint32_t address) {
  static_assert(sizeof(T) % 4 == 0, "the emulator tells four bytes apart, not less");
  if (address % sizeof(T)) machine->fail("misaligned ld.shared");
  const uint32_t full = machine->full(address, *self);
  machine->memory.read(full, sizeof(T), emulated::Machine::ordinary(*self, "ld.shared"));
  machine->stop_on_error();
  T value;
  std::memcpy(&value, machine->memory.at(full, sizeof(T)), sizeof(T));
  return value;
}
template <class T>
void store_shared(uint32_t address, T value) {
  static_assert(sizeof(T) % 4 == 0, "the emulator tells four bytes apart, not less");
  if (address % sizeof(T)) machine->fail("misaligned st.shared");
  const uint32_t full = machine->full(address, *self);
  machine->memory.check_write(full, sizeof(T), emulated::Machine::ordinary(*self, "st.shared"));
  machine->stop_on_error();
  std::memcpy(machine->memory.at(full, sizeof(T)), &value, sizeof(T));
  machine->memory.written(full, sizeof(T), self->agent, self->now, false);
}

inline void store_global(void* to, const uint4& v) { std::memcpy(to, &v, sizeof v); }

// Barriers of threads.
inline void sync_warp() {
  int none = 0;
  machine->meet_warp("syncwarp", none, [](Members& members) { machine->synchronize(members); });
}
inline void sync_threads(int number, int count) {
  auto& meeting = machine->named[{self->cta, number}];
  meeting.expected = count;
  int none = 0;
  machine->meet(meeting, "bar.sync", none, [](Members& members) { machine->synchronize(members); });
}
inline void sync_block() { sync_threads(0, machine->threads); }

// Exchange within a warp.
inline float shuffle(float value, int from) {
  struct Mine {
    float in, out;
    int from;
  } mine{value, 0, from & 31};
  machine->meet_warp("shfl", mine, [](Members& members) {
    ++counters.shuffles;
    for (auto* each : members) {
      Mine& own = *static_cast<Mine*>(each->argument);
      own.out = static_cast<Mine*>(members[own.from]->argument)->in;
    }
  });
  return mine.out;
}
inline float shuffle_xor(float value, int mask) { return shuffle(value, thread() ^ mask); }
inline bool any(bool condition) {
  struct Mine {
    bool in, out;
  } mine{condition, false};
  machine->meet_warp("vote.any", mine, [&](Members& members) {
    bool found = false;
    for (auto* each : members) found |= static_cast<Mine*>(each->argument)->in;
    for (auto* each : members) static_cast<Mine*>(each->argument)->out = found;
  });
  return mine.out;
}

// ldmatrix: lane l names row l % 8 of matrix l / 8, and gets columns 2 (l % 4), + 1 of row l / 4 of each.
struct MatrixLanes {
  uint32_t address;
  uint32_t* registers;
};
inline const uint8_t* matrix_row(emulated::Thread& thread, const char* what) {
  const uint32_t address = static_cast<MatrixLanes*>(thread.argument)->address;
  if (address % 16) machine->memory.fail(std::string("misaligned ") + what);
  const uint32_t full = machine->full(address, thread);
  machine->memory.read(full, 16, emulated::Machine::ordinary(thread, what));
  return machine->memory.at(full, 16);
}
inline void count_rows(Members& members) {
  uint32_t rows[32];
  for (int lane = 0; lane < 32; ++lane) rows[lane] = static_cast<MatrixLanes*>(members[lane]->argument)->address;
  machine->count_banks(rows, 4);
}
inline void ldmatrix(uint32_t (&r)[4], uint32_t address) {
  MatrixLanes mine{address, r};
  machine->meet_warp("ldmatrix", mine, [](Members& members) {
    count_rows(members);
    for (int lane = 0; lane < 32; ++lane) {
      const uint8_t* row = matrix_row(*members[lane], "ldmatrix");
      for (int c = 0; c < 4; ++c)
        std::memcpy(&static_cast<MatrixLanes*>(members[lane % 8 * 4 + c]->argument)->registers[lane / 8], row + 4 * c,
                    4);
    }
  });
}
inline void ldmatrix_transposed(uint32_t (&r)[4], uint32_t address) {
  MatrixLanes mine{address, r};
  machine->meet_warp("ldmatrix.trans", mine, [](Members& members) {
    count_rows(members);
    for (int lane = 0; lane < 32; ++lane) {
      const uint8_t* row = matrix_row(*members[lane], "ldmatrix.trans");
      for (int i = 0; i < 8; ++i) {
        auto* to = static_cast<MatrixLanes*>(members[i * 4 + lane % 8 / 2]->argument);
        std::memcpy(reinterpret_cast<uint8_t*>(&to->registers[lane / 8]) + lane % 2 * 2, row + 2 * i, 2);
      }
    }
  });
}

// mma.m16n8k16, row by column, float accumulators.
template <class T>
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Mine {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } mine{c, a, {b0, b1}};
  machine->meet_warp("mma", mine, [](Members& members) {
    counters.multiplications += 16 * 8 * 16;
    float left[16][16], right[16][8], sum[16][8] = {};
    for (int lane = 0; lane < 32; ++lane) {
      const auto* from = static_cast<Mine*>(members[lane]->argument);
      const int g = lane / 4, k = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        left[g + i % 2 * 8][k + i / 2 * 8] = low<T>(from->a[i]);
        left[g + i % 2 * 8][k + i / 2 * 8 + 1] = high<T>(from->a[i]);
      }
      for (int i = 0; i < 2; ++i)
        right[k + i * 8][g] = low<T>(from->b[i]), right[k + i * 8 + 1][g] = high<T>(from->b[i]);
    }
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < 16; ++k)
        for (int column = 0; column < 8; ++column) sum[row][column] += left[row][k] * right[k][column];
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        static_cast<Mine*>(members[lane]->argument)->c[i] += sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  });
}

// cp.async of 16 bytes: over for its own thread after wait_copies, for others after a barrier behind that. The source
// is read at once or at the end, as the schedule draws.
inline void copy_async(uint32_t to, const void* from) {
  if (to % 16 || reinterpret_cast<uintptr_t>(from) % 16) machine->fail("misaligned cp.async");
  counters.bytes_copied += 16;
  const uint32_t full = machine->full(to, *self);
  machine->memory.check_write(full, 16, emulated::Machine::ordinary(*self, "cp.async"));
  machine->stop_on_error();
  emulated::Thread* owner = self;
  uint4 now;
  std::memcpy(&now, from, 16);
  const bool early = machine->random() % 2;
  const int flight = machine->take_off([=] {
    std::memcpy(machine->memory.at(full, 16), early ? static_cast<const void*>(&now) : from, 16);
    machine->memory.written(full, 16, owner->agent, owner->now, false);
  });
  machine->memory.take_off(full, 16, flight);
  self->copies.back().push_back(flight);
}
inline void commit_copies() { self->copies.emplace_back(); }
template <int Left>
void wait_copies() {
  while (static_cast<int>(self->copies.size()) - 1 > Left) {
    for (int flight : self->copies.front()) machine->land(flight);
    self->copies.erase(self->copies.begin());
  }
}

}  // namespace gpu
