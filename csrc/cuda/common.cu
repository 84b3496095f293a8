// The small kernels around the products, for every architecture, and which kernels a problem takes.
#include "coefficients.h"
#include "execute.h"
#include "gradient.h"
#include "launch.h"
#include "pack.h"
#include "plan.h"
#include "pool.h"

namespace gloria_cuda {

namespace {

int rows_at_once(int64_t rows, int threads, const Device& device) {
  const int64_t blocks = (rows + threads / 32 - 1) / (threads / 32), most = static_cast<int64_t>(device.processors) * 8;
  return static_cast<int>(blocks < most ? blocks : most);
}

template <class T, WordNorm kNorm>
void gradient(const Grid& grid, const GradientProblem& problem) {
  problem.cosine ? execute<affinity_gradient<T, kNorm, true>>(grid, problem)
                 : execute<affinity_gradient<T, kNorm, false>>(grid, problem);
}

template <class T>
void gradient(const Grid& grid, const GradientProblem& problem) {
  problem.word_norm == WordNorm::kNone ? gradient<T, WordNorm::kNone>(grid, problem)
                                       : gradient<T, WordNorm::kSoftmax>(grid, problem);
}

}  // namespace

void plan(const PlanProblem& problem, const Device& device) {
  execute<plan_tiles>({1, kPlanThreads, kPlanShared, device.stream}, problem);
}

void pack(const PackProblem& problem, const Device& device) {
  const Grid grid{rows_at_once(problem.count, kPackThreads, device), kPackThreads, 0, device.stream};
  problem.dtype == DType::kBFloat16 ? execute<pack_rows<BFloat16>>(grid, problem)
                                    : execute<pack_rows<Float16>>(grid, problem);
}

void pool(const PoolProblem& problem, const Device& device) {
  const int64_t pairs = static_cast<int64_t>(problem.images) * problem.texts;
  execute<pool_words>({rows_at_once(pairs, kPoolThreads, device), kPoolThreads, 0, device.stream}, problem);
}

void coefficients(const CoefficientProblem& problem, const Device& device) {
  const int64_t pairs = static_cast<int64_t>(problem.pool.images) * problem.pool.texts;
  execute<word_coefficients>({rows_at_once(pairs, kPoolThreads, device), kPoolThreads, 0, device.stream}, problem);
}

void gradient(const GradientProblem& problem, DType dtype, const Device& device) {
  const Grid grid{device.processors * 4, kGradientThreads, 0, device.stream};
  dtype == DType::kBFloat16 ? gradient<BFloat16>(grid, problem) : gradient<Float16>(grid, problem);
}

void forward(const ForwardProblem& problem, DType dtype, const Device& device) {
  if (for_word_rows(problem))
    return device.hopper ? word_rows_sm90(problem, dtype, device) : word_rows_sm80(problem, dtype, device);
  ForwardProblem rest = problem;
  if (device.hopper && for_sm90(problem)) {
    forward_sm90(problem, dtype, device);
    rest.long_only = true;
  }
  forward_sm80(rest, dtype, device);
}

}  // namespace gloria_cuda
