// Scratch memory in 64-byte aligned pieces of one allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "../out_of_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// Sanitizers watch the heap.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <sys/mman.h>
#define GLORIA_MAPS 1
#else
#define GLORIA_MAPS 0
#endif

namespace gloria::GLORIA_ISA {

// Hands out pieces of a buffer; without a buffer it only measures.
class Arena {
 public:
  Arena() = default;
  explicit Arena(char* base) : base_(base) {}

  template <class T>
  T* take(int64_t count) {
    char* piece = base_ ? base_ + used_ : nullptr;
    const int64_t bytes = static_cast<int64_t>(sizeof(T)) * count;
    used_ += (bytes + 63) / 64 * 64;
#if defined(__SANITIZE_ADDRESS__)
    used_ += 64;  // forbidden ground behind each piece
    if (piece) ASAN_POISON_MEMORY_REGION(piece + bytes, base_ + used_ - piece - bytes);
#endif
    return reinterpret_cast<T*>(piece);
  }
  int64_t used() const { return used_; }

 private:
  char* base_ = nullptr;
  int64_t used_ = 0;
};

// `count` equal buffers of something that `what` names; throws OutOfMemory.
class Buffers {
 public:
  Buffers(const char* what, int64_t count, int64_t bytes) : bytes_((bytes + 63) / 64 * 64 + 64) {
    all_ = static_cast<size_t>(count * bytes_);
    if (mapped()) {
#if GLORIA_MAPS
      void* pages = mmap(nullptr, all_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      base_ = pages == MAP_FAILED ? nullptr : static_cast<char*>(pages);
      if (base_) madvise(base_, all_, MADV_HUGEPAGE);  // a wish: few faults, few entries of the TLB
#endif
    } else {
      base_ = static_cast<char*>(std::aligned_alloc(64, all_));
    }
    if (!base_) throw OutOfMemory(what, all_);
  }
  ~Buffers() {
#if GLORIA_MAPS
    if (mapped()) {
      munmap(base_, all_);
      return;
    }
#endif
    std::free(base_);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  char* operator[](int64_t i) const { return base_ + i * bytes_; }

 private:
  // Large buffers come from the system and go back to it: in the heap, what outlives them would keep their memory, and
  // a search that makes them again for each chunk of a corpus was seen to keep four.
  bool mapped() const { return GLORIA_MAPS && all_ >= (size_t{4} << 20); }

  int64_t bytes_;
  size_t all_ = 0;
  char* base_ = nullptr;
};

// `count` equal buffers, each laid out by `make(arena)`: how much that takes is found by trying.
template <class Make>
class Layouts {
 public:
  Layouts(const char* what, int64_t count, Make make) : make_(make), buffers_(what, count, measured()) {}
  auto operator[](int64_t i) const {
    Arena arena(buffers_[i]);
    return make_(arena);
  }

 private:
  int64_t measured() const {
    Arena arena;
    make_(arena);
    return arena.used();
  }

  Make make_;
  Buffers buffers_;
};

}  // namespace gloria::GLORIA_ISA
