// Scratch memory in 64-byte aligned pieces of one allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
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

// `count` equal buffers.
class Buffers {
 public:
  Buffers(int64_t count, int64_t bytes) : bytes_((bytes + 63) / 64 * 64 + 64) {
    base_ = static_cast<char*>(std::aligned_alloc(64, static_cast<size_t>(count * bytes_)));
    if (!base_) throw std::bad_alloc();
  }
  ~Buffers() { std::free(base_); }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  char* operator[](int64_t i) const { return base_ + i * bytes_; }

 private:
  int64_t bytes_;
  char* base_;
};

}  // namespace gloria::GLORIA_ISA
