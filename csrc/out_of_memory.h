// A refused allocation that says how many bytes it was for what.
#pragma once

#include <cstddef>
#include <new>

namespace gloria {

// Not inline: engines must not share code that is compiled for one of them.
class OutOfMemory : public std::bad_alloc {
 public:
  OutOfMemory(const char* what, size_t bytes);
  OutOfMemory(const OutOfMemory&);
  ~OutOfMemory() override;
  const char* what() const noexcept override;

 private:
  char text_[160];
};

}  // namespace gloria
