// The small kernels around the products, for every architecture, and which kernels a problem takes.
#include "execute.h"
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

void forward(const ForwardProblem& problem, DType dtype, const Device& device) {
  ForwardProblem rest = problem;
  if (device.hopper && for_sm90(problem)) {
    forward_sm90(problem, dtype, device);
    rest.long_only = true;
  }
  forward_sm80(rest, dtype, device);
}

}  // namespace gloria_cuda
