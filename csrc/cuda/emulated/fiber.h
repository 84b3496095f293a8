// Fibers: many stacks on one CPU thread, so that every CUDA thread of a block can stop in the middle of a kernel.
// x86-64 only.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

#if !defined(__x86_64__)
#error "the emulator switches stacks in x86-64 assembly; on other processors its tests are skipped"
#endif

extern "C" void gloria_switch_stack(void** save, void* load);
asm(R"(
.text
.weak gloria_switch_stack
.type gloria_switch_stack,@function
gloria_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulated {

class Fiber {
 public:
  // `entry` must never return: it ends by a last `leave`.
  explicit Fiber(void (*entry)()) {
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stack_ = static_cast<char*>(memory);
    void** top = reinterpret_cast<void**>(stack_ + kStack - 64);
    *--top = nullptr;  // the alignment of a stack at the entry of a function
    *--top = reinterpret_cast<void*>(entry);
    pointer_ = top - 6;  // the six registers that a switch restores
  }
  Fiber(Fiber&& other) noexcept : stack_(other.stack_), pointer_(other.pointer_) { other.stack_ = nullptr; }
  Fiber(const Fiber&) = delete;
  ~Fiber() {
    if (stack_) munmap(stack_, kStack);
  }

  void enter() { gloria_switch_stack(&outside_, pointer_); }
  void leave() { gloria_switch_stack(&pointer_, outside_); }

 private:
  static constexpr size_t kStack = 128 << 10;
  char* stack_;
  void* pointer_;
  void* outside_ = nullptr;
};

}  // namespace emulated
