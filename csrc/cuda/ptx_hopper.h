// What sm_90a adds to ptx_device.h; emulated/hopper.h has the same names for a CPU.
#pragma once

#ifndef __CUDACC__
#include "emulated/hopper.h"
#else

#include <cuda.h>

#include "ptx_device.h"

namespace gpu {

using TensorMap = CUtensorMap;

DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
DEVICE uint32_t of_cta(uint32_t address, int rank) {
  uint32_t mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

DEVICE void barrier_init(uint32_t address, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(count) : "memory");
}
DEVICE void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// A mapped address, or one's own: shared::cta lies within shared::cluster.
DEVICE void barrier_arrive(uint32_t address) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address) : "memory");
}
DEVICE void barrier_expect(uint32_t address, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
}
// Without a scope: with .cluster each wait would invalidate the first-level cache.
DEVICE void barrier_wait(uint32_t address, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nwaiting:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra "
      "waiting;\ndone:\n}" ::"r"(address),
      "r"(parity)
      : "memory");
}

DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void copy_tile(uint32_t to, const TensorMap& map, int x, int y, int z, uint32_t barrier, uint32_t ctas = 0) {
  if (ctas)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
        "{%2, %3, %4}], [%5], "
        "%6;" ::"r"(to),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(static_cast<uint16_t>(ctas))
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
            "r"(to),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier)
        : "memory");
}

DEVICE void stmatrix_transposed(uint32_t address, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// Operands along K in rows of 128 swizzled bytes, eight rows a KiB apart.
DEVICE uint64_t descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// The accumulators that may be read from here on are named: nothing else would keep the compiler from reading them
// before.
template <int kLeft, int... kCounts>
DEVICE void wgmma_wait(float (&... d)[kCounts]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
  auto settle = [](auto& each) {
#pragma unroll
    for (auto& x : each) asm volatile("" : "+f"(x)::"memory");
  };
  (settle(d), ...);
}
// Inline assembly names every register.
#define GLORIA_8(i)                                                                                           \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define GLORIA_64 \
  GLORIA_8(0), GLORIA_8(8), GLORIA_8(16), GLORIA_8(24), GLORIA_8(32), GLORIA_8(40), GLORIA_8(48), GLORIA_8(56)
#define GLORIA_92 \
  GLORIA_64, GLORIA_8(64), GLORIA_8(72), GLORIA_8(80), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define GLORIA_NAMES_64                                                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"
#define GLORIA_NAMES_92                                                                                    \
  GLORIA_NAMES_64                                                                                          \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
  "%84, %85, %86, %87, %88, %89, %90, %91"
#define GLORIA_WGMMA(columns, type, accumulators, names, left, right, flag)                               \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " flag ", 0;\nwgmma.mma_async.sync.aligned.m64n" columns \
               "k16.f32." type "." type " {" names "}, " left ", " right ", p, 1, 1, 0, 0;\n}"            \
               : accumulators                                                                             \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))
template <class T, int kN>
DEVICE void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kN == 128 || kN == 184);
  if constexpr (kN == 128) {
    if constexpr (__is_same(T, BFloat16))
      GLORIA_WGMMA("128", "bf16", GLORIA_64, GLORIA_NAMES_64, "%64", "%65", "%66");
    else
      GLORIA_WGMMA("128", "f16", GLORIA_64, GLORIA_NAMES_64, "%64", "%65", "%66");
  } else {
    if constexpr (__is_same(T, BFloat16))
      GLORIA_WGMMA("184", "bf16", GLORIA_92, GLORIA_NAMES_92, "%92", "%93", "%94");
    else
      GLORIA_WGMMA("184", "f16", GLORIA_92, GLORIA_NAMES_92, "%92", "%93", "%94");
  }
}
#undef GLORIA_WGMMA
#undef GLORIA_NAMES_92
#undef GLORIA_NAMES_64
#undef GLORIA_92
#undef GLORIA_64
#undef GLORIA_8

template <int kCount>
DEVICE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
DEVICE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace gpu

#endif
