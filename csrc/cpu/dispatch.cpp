// Chooses the engine by what the processor reports at run time, never by what built it.
#include "dispatch.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gloria {

Engine engine_baseline();
#if defined(__x86_64__)
Engine engine_avx2();
Engine engine_avx512();
Engine engine_avx512_bf16();
Engine engine_amx();
Engine engine_amx_emulated();
#endif

namespace {

struct Candidate {
  Engine engine;
  bool bfloat16;  // products in bfloat16: serves bfloat16 problems only
  bool available;
};

#if defined(__x86_64__)
// Linux hands out the tile registers on request, to the whole process.
bool has_amx() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool bf16 = d >> 22 & 1u, tile = d >> 24 & 1u;
  return bf16 && tile && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

// Fastest first; the emulated tiles last, they exist for the tests.
const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> all = [] {
    std::vector<Candidate> list;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    list.push_back({engine_amx(), true, bf16 && has_amx()});
    list.push_back({engine_avx512_bf16(), true, bf16});
    list.push_back({engine_avx512(), false, avx512});
    // On Intel's Emerald Rapids products by bfloat16 dot products were measured at half the rate of those in float32.
    if (__builtin_cpu_is("intel")) std::swap(list[1], list[2]);
    list.push_back({engine_avx2(), false, avx2});
#endif
    list.push_back({engine_baseline(), false, true});
#if defined(__x86_64__)
    list.push_back({engine_amx_emulated(), true, avx512});
#endif
    return list;
  }();
  return all;
}

const Engine& choose(DType dtype, const std::string& isa) {
  const auto& all = candidates();
  const auto asked =
      std::find_if(all.begin(), all.end(), [&](const Candidate& c) { return isa == c.engine.isa && c.available; });
  if (asked == all.end()) throw std::invalid_argument("isa '" + isa + "' is not available on this processor");
  if (dtype == DType::kBFloat16 || !asked->bfloat16) return asked->engine;
  return std::find_if(all.begin(), all.end(), [](const Candidate& c) { return c.available && !c.bfloat16; })->engine;
}

// Rows of words to a tile: many, for each panel of regions is read once a tile, but so few that a chunk of the operands
// and the tile stay in a second-level cache of 1 MiB.
int64_t bin_capacity(const Problem& problem) {
  int64_t regions = 1;
  for (int64_t i = 0; i < problem.images.count; ++i) regions = std::max(regions, problem.images.lengths[i]);
  return std::clamp<int64_t>(98304 / regions / 32 * 32, 64, 384);
}

// The problem with no more threads than its products keep busy: waking one costs as much as a million flops.
Problem with_useful_threads(const Problem& problem) {
  constexpr double kFlopsPerThread = 1e6;
  double words = 0, regions = 0;
  for (int64_t i = 0; i < problem.texts.count; ++i) words += static_cast<double>(problem.texts.lengths[i]);
  for (int64_t i = 0; i < problem.images.count; ++i) regions += static_cast<double>(problem.images.lengths[i]);
  const double useful = std::ceil(2 * words * regions * static_cast<double>(problem.dim) / kFlopsPerThread);
  Problem result = problem;
  result.threads = useful < problem.threads ? static_cast<int>(useful) : problem.threads;
  return result;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates())
    if (c.available) names.emplace_back(c.engine.isa);
  return names;
}

bool forward(const Problem& problem, float* scores, const Kept& best, const std::string& isa) {
  const Engine& engine = choose(problem.dtype, isa);
  const TextBins bins(problem.texts, bin_capacity(problem), engine.pad);
  return engine.forward(with_useful_threads(problem), bins.all(), scores, best);
}

bool backward(const Problem& problem, const Gradients& gradients, const std::string& isa) {
  const Engine& engine = choose(problem.dtype, isa);
  const TextBins bins(problem.texts, bin_capacity(problem), engine.pad);
  return engine.backward(with_useful_threads(problem), bins.all(), gradients);
}

void exponential(DType dtype, const float* x, float* out, int64_t count, const std::string& isa) {
  choose(dtype, isa).exponential(x, out, count);
}

}  // namespace gloria
