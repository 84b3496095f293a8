// The exponential of the attention by itself, as the kernels compute it.
#pragma once

#include "forms.h"

namespace gloria::GLORIA_ISA {

template <class Operand>
void exponential(const float* x, float* out, int64_t count) {
  int64_t i = 0;
  // Whole vectors by copies of a fixed size, which are plain loads and stores: others would take longer than the
  // exponential.
  for (; i + kLanes <= count; i += kLanes) {
    Vec v;
    std::memcpy(&v, x + i, sizeof v);
    v = exp<Operand::kExpDegree>(v);
    std::memcpy(out + i, &v, sizeof v);
  }
  Vec v = Vec{};
  std::memcpy(&v, x + i, 4 * (count - i));
  v = exp<Operand::kExpDegree>(v);
  std::memcpy(out + i, &v, 4 * (count - i));
}

}  // namespace gloria::GLORIA_ISA
