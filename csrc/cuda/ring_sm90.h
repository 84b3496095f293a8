// Stages of shared memory in a ring, on sm_90a: the copy engine fills them, and the consumers' warps of all CTAs of a
// cluster release them, since each CTA also fills those of the others.
#pragma once

#include "ptx_hopper.h"

namespace gloria_cuda {

using namespace gpu;

constexpr int kCtas = 2;  // of a cluster
constexpr uint16_t kAllCtas = (1u << kCtas) - 1;

template <int kStages>
struct Ring {
  static constexpr uint32_t kBytes = kStages * 16;

  uint32_t barriers;  // of each stage: it is filled; it is empty
  // Of the next step, and the parity of its barriers.
  int slot = 0;
  uint32_t parity = 0;

  // `warps`: of the consumers of a CTA. All threads of the cluster come here.
  DEVICE void make(int warps) const {
    if (thread() == 0) {
      for (int i = 0; i < kStages; ++i) barrier_init(filled(i), 1), barrier_init(emptied(i), warps * kCtas);
      fence_barrier_init();
    }
    sync_cluster();
  }
  DEVICE void next() {
    if (++slot == kStages) slot = 0, parity ^= 1;
  }
  DEVICE int before() const { return slot ? slot - 1 : kStages - 1; }

  // The producer's: what so many bytes are copied by, into a stage that is empty.
  DEVICE uint32_t expect(uint32_t bytes) const {
    barrier_wait(emptied(slot), parity ^ 1);
    barrier_expect(filled(slot), bytes);
    return filled(slot);
  }
  // A CTA must not end while another copies into it, or arrives at its barriers.
  DEVICE void drain() {
#pragma unroll 1
    for (int i = 0; i < kStages; ++i) barrier_wait(emptied(slot), parity ^ 1), next();
  }

  // The consumers'.
  DEVICE void wait() const { barrier_wait(filled(slot), parity); }
  DEVICE void release(int which) const {
    const int lane = thread() % 32;
    if (lane < kCtas) barrier_arrive(of_cta(emptied(which), lane));
  }

 private:
  DEVICE uint32_t filled(int which) const { return barriers + which * 16; }
  DEVICE uint32_t emptied(int which) const { return barriers + which * 16 + 8; }
};

}  // namespace gloria_cuda
