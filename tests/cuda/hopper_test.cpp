// The emulator's own tests of what sm_90a adds: mbarriers, copies of tiles, clusters and wgmma, right and with one
// fault each.
#include "emulated_checks.h"

namespace {

alignas(16) uint16_t values[64 * 64];  // bf16: row r, column k holds (r * 3 + k) % 7 - 3
float value(int row, int k) { return static_cast<float>((row * 3 + k) % 7 - 3); }
TensorMap map_of(uint32_t box_rows, uint64_t rows = 64) {
  return {reinterpret_cast<const uint8_t*>(values), {64, rows, 1}, {2, 128, 128 * rows}, {64, box_rows, 1}};
}

uint32_t tile() { return shared_base(); }  // 64 rows of 128 bytes
uint32_t barrier() { return shared_base() + 8192 * 3; }
constexpr uint32_t kShared = 8192 * 3 + 64;

void make_barrier(int count, bool fence = true) {
  if (thread() == 0) {
    barrier_init(barrier(), count);
    if (fence) fence_barrier_init();
  }
  sync_block();
}
void fetch(uint32_t to, const TensorMap& map, uint32_t bytes) {
  if (thread()) return;
  barrier_expect(barrier(), bytes);
  copy_tile(to, map, 0, 0, 0, barrier());
}

void copies() {
  static const TensorMap whole = map_of(64), beyond = map_of(64, 40);
  expect("a tile that is waited for", nullptr, 128, kShared, [] {
    make_barrier(1);
    fetch(tile(), whole, 8192);
    barrier_wait(barrier(), 0);
    const int row = thread() % 64, chunk = thread() / 64;  // the swizzle moves chunks of 16 bytes by the row
    const uint32_t pair = load_shared<uint32_t>(tile() + row * 128 + (chunk ^ row % 8) * 16);
    if (low<BFloat16>(pair) != value(row, chunk * 8) || high<BFloat16>(pair) != value(row, chunk * 8 + 1))
      machine->fail("a wrong value");
  });
  expect("zeros where the tensor ends", nullptr, 128, kShared, [] {
    make_barrier(1);
    fetch(tile(), beyond, 8192);
    barrier_wait(barrier(), 0);
    if (load_shared<uint32_t>(tile() + 41 * 128)) machine->fail("a row behind the end");
  });
  expect("a tile that is not waited for", "ld.shared r", 128, kShared, [] {
    make_barrier(1);
    fetch(tile(), whole, 8192);
    sync_block();
    keep(load_shared<float>(tile()));
  });
  expect("more bytes are expected than come", "deadlock", 128, kShared, [] {
    make_barrier(1);
    fetch(tile(), whole, 8192 + 16);
    barrier_wait(barrier(), 0);
  });
  expect("no fence behind mbarrier.init", "no fence has published", 128, kShared, [] {
    make_barrier(1, false);
    fetch(tile(), whole, 8192);
    barrier_wait(barrier(), 0);
  });
  expect("a tile over what threads wrote, without a proxy fence", "races with an earlier write", 128, kShared, [] {
    store_shared(tile() + thread() * 4, 1.f);
    make_barrier(1);
    fetch(tile(), whole, 8192);
    barrier_wait(barrier(), 0);
  });
  expect("a tile over what threads wrote, with one", nullptr, 128, kShared, [] {
    store_shared(tile() + thread() * 4, 1.f);
    fence_proxy_async();
    make_barrier(1);
    fetch(tile(), whole, 8192);
    barrier_wait(barrier(), 0);
  });
  expect("one arrival too many", "more arrivals", 128, kShared, [] {
    make_barrier(1);
    if (thread() == 0) barrier_expect(barrier(), 16), barrier_arrive(barrier());
  });
  expect("a waiter that comes a phase late", "mbarrier", 64, kShared, [] {
    make_barrier(1);
    if (thread() == 0) {
      for (int i = 0; i < 2; ++i) barrier_arrive(barrier());
    } else if (thread() == 32) {
      barrier_wait(barrier(), 0);  // the phase of this parity comes again, and nobody arrives
      barrier_wait(barrier(), 1);
      barrier_wait(barrier(), 0);
    }
  });
}

void clusters() {
  static const TensorMap half = map_of(32);
  auto kernel = [](bool wait_at_end) {
    return [=] {
      if (thread() == 0) barrier_init(barrier(), 1), fence_barrier_init();
      sync_cluster();
      if (thread() == 0) {
        barrier_expect(barrier(), 8192);
        copy_tile(tile() + cluster_rank() * 4096, half, 0, cluster_rank() * 32, 0, barrier(), 3);
      }
      if (!wait_at_end && cluster_rank()) return;
      barrier_wait(barrier(), 0);
      if (low<BFloat16>(load_shared<uint32_t>(tile() + 40 * 128)) != value(40, 0)) machine->fail("a wrong value");
    };
  };
  expect("each CTA copies half for both", nullptr, 64, kShared, kernel(true), 2);
  expect(
      "an arrival at another CTA's mbarrier", nullptr, 64, kShared,
      [] {
        if (thread() == 0) barrier_init(barrier(), 2), fence_barrier_init();
        sync_cluster();
        if (thread() < 2) barrier_arrive(of_cta(barrier(), thread()));
        barrier_wait(barrier(), 0);
        sync_cluster();
      },
      2);
  expect(
      "another CTA's mbarrier before it is known", "mbarrier", 64, kShared,
      [] {
        if (thread() == 0) barrier_init(barrier(), 2), fence_barrier_init();
        sync_block();
        if (thread() < 2) barrier_arrive(of_cta(barrier(), thread()));
        sync_cluster();
      },
      2);
}

// 64 x 64 by 128 x 64, transposed: the rows of the right operand are the tile twice.
enum class Fault { kNone, kNoFence, kUnnamed, kNoWait, kOverwrite, kNoProxy };
void multiply(Fault fault) {
  static const TensorMap whole = map_of(64);
  make_barrier(1);
  if (thread() == 0) {
    barrier_expect(barrier(), 3 * 8192);
    for (int i = 0; i < 3; ++i) copy_tile(tile() + i * 8192, whole, 0, 0, 0, barrier());
  }
  barrier_wait(barrier(), 0);
  if (fault == Fault::kNoProxy) {
    // Every value as it was, but written by threads.
    for (int i = thread(); i < 2048; i += 128) store_shared(tile() + i * 4, load_shared<uint32_t>(tile() + i * 4));
    sync_block();
  }
  float d[64];
  if (fault != Fault::kNoFence) wgmma_fence();
  for (int k16 = 0; k16 < 4; ++k16)
    wgmma<BFloat16, 128>(d, descriptor(tile()) + k16 * 2, descriptor(tile() + 8192) + k16 * 2, k16 > 0);
  wgmma_commit();
  if (fault == Fault::kOverwrite) store_shared(tile() + thread() * 4, 0.f);
  if (fault == Fault::kUnnamed)
    wgmma_wait<0>();
  else if (fault != Fault::kNoWait)
    wgmma_wait<0>(d);
  for (int i = 0; i < 64; ++i) {
    const int lane = thread() % 32, row = thread() / 32 * 16 + lane / 4 + i / 2 % 2 * 8,
              column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float expected = 0;
    for (int k = 0; k < 64; ++k) expected += value(row, k) * value(column % 64, k);
    if (!(d[i] == expected)) machine->fail("the product is wrong");
  }
}
void products() {
  expect("a product of a warpgroup", nullptr, 128, kShared, [] { multiply(Fault::kNone); });
  expect("no wgmma.fence", "without wgmma.fence", 128, kShared, [] { multiply(Fault::kNoFence); });
  expect("a wait that names no accumulators", "the product is wrong", 128, kShared, [] { multiply(Fault::kUnnamed); });
  expect("no wait", "the product is wrong", 128, kShared, [] { multiply(Fault::kNoWait); });
  expect("an operand overwritten under way", "races with a", 128, kShared, [] { multiply(Fault::kOverwrite); });
  expect("operands that threads wrote, without a proxy fence", "wgmma races with a write", 128, kShared,
         [] { multiply(Fault::kNoProxy); });
}

void transposed_store() {
  expect("stmatrix undoes ldmatrix", nullptr, 32, 1024, [] {
    const int lane = thread();
    for (int i = lane; i < 128; i += 32) store_shared(shared_base() + i * 4, static_cast<uint32_t>(i * 65537));
    sync_warp();
    uint32_t before[4], after[4];
    ldmatrix_transposed(before, shared_base() + lane * 16);
    sync_warp();
    stmatrix_transposed(shared_base() + 512 + lane * 16, before);
    sync_warp();
    ldmatrix_transposed(after, shared_base() + 512 + lane * 16);
    for (int i = 0; i < 4; ++i)
      if (before[i] != after[i]) machine->fail("another matrix came back");
    if (load_shared<uint32_t>(shared_base() + 512 + lane * 16) != load_shared<uint32_t>(shared_base() + lane * 16))
      machine->fail("it was stored elsewhere");
  });
}

}  // namespace

int main() {
  for (int row = 0; row < 64; ++row)
    for (int k = 0; k < 64; ++k) values[row * 64 + k] = BFloat16::bits(value(row, k));
  copies();
  clusters();
  products();
  transposed_store();
  return verdict();
}
