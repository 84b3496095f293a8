// The host side of the CPU kernels: which engines this processor runs, and the packing of texts into bins.
#pragma once

#include <string>
#include <vector>

#include "engine.h"

namespace gloria {

// Instruction sets this processor has, fastest first.
std::vector<std::string> available_isas();

// Runs on the engine of `isa`, or of a slower instruction set where `isa` has none for the dtype. Throws
// std::invalid_argument for an instruction set that this processor does not have, and OutOfMemory. False if it was
// interrupted.
bool forward(const Problem& problem, float* scores, const Kept& best, const std::string& isa);
bool backward(const Problem& problem, const Gradients& gradients, const std::string& isa);

// e^x for each x, by the engine that serves `dtype`.
void exponential(DType dtype, const float* x, float* out, int64_t count, const std::string& isa);

}  // namespace gloria
