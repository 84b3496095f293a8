// What the emulator's tests share: a kernel runs under several schedules, and must give an expected error, or none.
#pragma once

#include <cstdio>

#include "ptx_hopper.h"

using namespace gpu;

namespace {

int failures = 0;

// Expects an error that contains `expected` in every schedule, or none where that is null.
template <class Kernel>
void expect(const char* name, const char* expected, int threads, uint32_t shared, Kernel&& kernel, int cluster = 1) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const std::string error = emulated::launch(2, threads, cluster, shared, seed, kernel);
    const bool right = expected ? error.find(expected) != std::string::npos : error.empty();
    if (right) continue;
    std::printf("%s, schedule %d: expected %s, got \"%s\"\n", name, static_cast<int>(seed),
                expected ? expected : "no error", error.c_str());
    ++failures;
    return;
  }
}

// What nobody may optimize away.
float keep(float x) {
  static volatile float sink;
  sink = x;
  return x;
}

int verdict() {
  if (!failures) std::printf("the emulator is right\n");
  return failures != 0;
}

}  // namespace
