// The emulator's own tests: small kernels that are right, and kernels with one fault each that it must name.
#include "emulated_checks.h"

namespace {

uint32_t own() { return shared_base() + thread() * 4; }
uint32_t neighbor() { return shared_base() + (thread() + 1) % 64 * 4; }
alignas(16) const uint32_t source[4 * 64] = {};

void order_of_threads() {
  expect("a barrier between write and read", nullptr, 64, 1024, [] {
    store_shared(own(), 1.f);
    sync_block();
    keep(load_shared<float>(neighbor()));
  });
  expect("no barrier between write and read", "ld.shared", 64, 1024, [] {
    store_shared(own(), 1.f);
    keep(load_shared<float>(neighbor()));
  });
  expect("a write over what another may still read", "races with a", 64, 1024, [] {
    store_shared(own(), 1.f);
    sync_block();
    keep(load_shared<float>(neighbor()));
    store_shared(own(), 2.f);
  });
  expect("two writes without order", "races with an earlier write", 64, 1024, [] { store_shared(shared_base(), 1.f); });
  expect("a barrier of one warp for two", "ld.shared", 64, 1024, [] {
    store_shared(own(), 1.f);
    sync_warp();
    keep(load_shared<float>(neighbor()));
  });
  expect("memory that nobody wrote", "what nobody wrote", 32, 1024, [] { keep(load_shared<float>(own())); });
  expect("memory of nobody", "outside of shared memory", 32, 64, [] { store_shared(own(), 1.f); });
  expect("an odd address", "misaligned", 32, 1024, [] { store_shared(own() + 2, 1.f); });
}

void meetings() {
  expect("a barrier that half of the threads reach", "deadlock", 64, 1024, [] {
    if (thread() < 32) sync_block();
  });
  expect("a shuffle that one lane skips", "deadlock", 32, 1024, [] {
    if (thread()) keep(shuffle_xor(1.f, 1));
  });
  expect("lanes at different instructions", "diverged", 32, 1024,
         [] { thread() % 2 ? keep(shuffle_xor(1.f, 1)) : keep(any(true)); });
  expect("a named barrier of half the block", nullptr, 128, 1024, [] { sync_threads(1 + thread() / 64, 64); });
  expect("values that change lanes", nullptr, 32, 1024, [] {
    const float lane = static_cast<float>(thread());
    if (shuffle_xor(lane, 5) != static_cast<float>(thread() ^ 5) || shuffle(lane, 7) != 7.f)
      machine->fail("a wrong value came");
    if (any(false) || !any(thread() == 9)) machine->fail("a wrong vote");
  });
}

void copies() {
  expect("a copy that is waited for", nullptr, 64, 4096, [] {
    copy_async(shared_base() + thread() * 16, source + thread() * 4);
    commit_copies();
    wait_copies<0>();
    sync_block();
    keep(load_shared<float>(shared_base() + (thread() + 1) % 64 * 16));
  });
  expect("a copy that is not waited for", "a copy under way", 32, 4096, [] {
    copy_async(shared_base() + thread() * 16, source + thread() * 4);
    commit_copies();
    keep(load_shared<float>(shared_base() + thread() * 16));
  });
  expect("one group too few is waited for", "a copy under way", 32, 4096, [] {
    copy_async(shared_base() + thread() * 16, source);
    commit_copies();
    wait_copies<1>();
    keep(load_shared<float>(shared_base() + thread() * 16));
  });
  expect("a copy of another thread, without a barrier", "ld.shared", 64, 4096, [] {
    copy_async(shared_base() + thread() * 16, source);
    commit_copies();
    wait_copies<0>();
    keep(load_shared<float>(shared_base() + (thread() + 32) % 64 * 16));
  });
  expect("a copy over what is still read", " at shared offset", 64, 4096, [] {
    store_shared(shared_base() + thread() * 16, uint4{});
    sync_block();
    keep(load_shared<float>(shared_base() + (thread() + 32) % 64 * 16));
    copy_async(shared_base() + thread() * 16, source);
  });
  expect("a misaligned copy", "misaligned cp.async", 32, 4096, [] { copy_async(shared_base() + 8, source); });
}

// A 16 x 16 times 16 x 8 product from shared memory by ldmatrix, plain and transposed, against sums.
template <class T>
void product(const char* name) {
  expect(name, nullptr, 32, 4096, [] {
    auto left = [](int row, int k) { return static_cast<float>(row * 3 % 7 - k % 5); };
    auto right = [](int k, int column) { return static_cast<float>(k % 3 - column * 5 % 4); };
    const uint32_t a_rows = shared_base(), b_columns = a_rows + 512, b_rows = b_columns + 256;
    auto fill = [&](uint32_t base, int rows, auto&& value) {
      for (int i = thread(); i < rows * 8; i += 32)
        store_shared(base + i * 4, pack<T>(value(i / 8, i % 8 * 2), value(i / 8, i % 8 * 2 + 1)));
    };
    fill(a_rows, 16, left);
    fill(b_columns, 8, [&](int column, int k) { return right(k, column); });
    for (int i = thread(); i < 16 * 4; i += 32)
      store_shared(b_rows + i * 4, pack<T>(right(i / 4, i % 4 * 2), right(i / 4, i % 4 * 2 + 1)));
    sync_warp();
    const int lane = thread();
    uint32_t a[4], b[4], c[4];
    ldmatrix(a, a_rows + lane % 16 * 32 + lane / 16 * 16);
    ldmatrix(b, b_columns + lane % 8 * 32 + lane / 8 % 2 * 16);
    ldmatrix_transposed(c, b_rows + lane % 16 * 16);
    if (b[0] != c[0] || b[1] != c[1]) machine->fail("transposed, the matrix is another");
    float sums[4] = {1, 1, 1, 1};
    mma<T>(sums, a, b[0], b[1]);
    for (int i = 0; i < 4; ++i) {
      float expected = 1;
      for (int k = 0; k < 16; ++k) expected += left(lane / 4 + i / 2 * 8, k) * right(k, lane % 4 * 2 + i % 2);
      if (sums[i] != expected) machine->fail("the product is wrong");
    }
  });
}

void banks() {
  auto conflicts = [](uint32_t stride) {
    emulated::counters = {};
    emulated::launch(1, 32, 1, 8192, 0, [=] {
      for (uint32_t i = thread(); i < 2048; i += 32) store_shared(shared_base() + i * 4, i);
      sync_warp();
      uint32_t r[4];
      ldmatrix(r, shared_base() + thread() * stride);
    });
    return emulated::counters.conflicts;
  };
  if (conflicts(16) != 0 || conflicts(128) != 4 || emulated::counters.matrices != 4)
    std::printf("bank conflicts are miscounted\n"), ++failures;
}

void numbers() {
  const float bf16[][2] = {
      {1.00390625f, 1.f}, {1.01171875f, 1.015625f}, {3.4e38f, as_float(0x7f800000u)}};  // ties to even; overflow
  for (const auto& [x, rounded] : bf16)
    if (low<BFloat16>(pack<BFloat16>(x, 0)) != rounded) std::printf("bf16 of %g is wrong\n", x), ++failures;
  if (high<Float16>(pack<Float16>(0, 65520.f)) != as_float(0x7f800000u) ||
      low<Float16>(pack<Float16>(5.9604645e-8f, 0)) != 5.9604645e-8f)
    std::printf("fp16 is wrong\n"), ++failures;
}

}  // namespace

int main() {
  order_of_threads();
  meetings();
  copies();
  product<BFloat16>("a product in bf16");
  product<Float16>("a product in fp16");
  banks();
  numbers();
  return verdict();
}
