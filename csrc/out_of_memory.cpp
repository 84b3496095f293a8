#include "out_of_memory.h"

#include <cstdio>

namespace gloria {

OutOfMemory::OutOfMemory(const char* what, size_t bytes) {
  std::snprintf(text_, sizeof text_, "cannot allocate %zu bytes for %s; take smaller batches or fewer threads", bytes,
                what);
}

OutOfMemory::OutOfMemory(const OutOfMemory&) = default;
OutOfMemory::~OutOfMemory() = default;

const char* OutOfMemory::what() const noexcept { return text_; }

}  // namespace gloria
