// The exponential of the attention by itself, as the kernels compute it.
#pragma once

#include "forms.h"

namespace gloria::GLORIA_ISA {

template <class Operand>
void exponential(const float* x, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t n = count - i < kLanes ? count - i : kLanes;
    Vec v = Vec{};
    std::memcpy(&v, x + i, 4 * n);
    v = exp<Operand::kExpDegree>(v);
    std::memcpy(out + i, &v, 4 * n);
  }
}

}  // namespace gloria::GLORIA_ISA
