// The kernels for sm_80 and later, which take every problem.
#include "execute.h"
#include "forward_sm80.h"
#include "gram_gradient.h"
#include "launch.h"
#include "word_rows_sm80.h"

namespace gloria_cuda {

namespace {

template <class T, WordNorm kNorm, bool kBounded, bool kCosine>
void forward(const Grid& grid, const ForwardProblem& problem) {
  problem.kept.affinities ? execute<sm80::forward<T, kNorm, kBounded, kCosine, true>>(grid, problem)
                          : execute<sm80::forward<T, kNorm, kBounded, kCosine, false>>(grid, problem);
}

template <class T, WordNorm kNorm, bool kBounded>
void forward(const Grid& grid, const ForwardProblem& problem) {
  problem.norm == Norm::kNone ? forward<T, kNorm, kBounded, false>(grid, problem)
                              : forward<T, kNorm, kBounded, true>(grid, problem);
}

template <class T>
void forward(const Grid& grid, const ForwardProblem& problem) {
  if (problem.word_norm == WordNorm::kNone)
    forward<T, WordNorm::kNone, false, true>(grid, problem);
  else if (bounded(problem))
    forward<T, WordNorm::kSoftmax, true>(grid, problem);
  else
    forward<T, WordNorm::kSoftmax, false>(grid, problem);
}

template <class T>
void word_rows(const Grid& grid, const ForwardProblem& problem) {
  problem.kept.affinities ? execute<rows80::forward<T, true>>(grid, problem)
                          : execute<rows80::forward<T, false>>(grid, problem);
}

}  // namespace

void word_rows_sm80(const ForwardProblem& problem, DType dtype, const Device& device) {
  const Grid grid{device.processors, rows80::kThreads, rows80::kShared, device.stream};
  dtype == DType::kBFloat16 ? word_rows<BFloat16>(grid, problem) : word_rows<Float16>(grid, problem);
}

void gram_gradient(const GramGradientProblem& problem, const Device& device) {
  execute<gram80::gram_gradient>({2 * device.processors, gram80::kThreads, gram80::kShared, device.stream}, problem);
}

void forward_sm80(const ForwardProblem& problem, DType dtype, const Device& device) {
  const Grid grid{device.processors, sm80::kThreads, sm80::kShared, device.stream};
  dtype == DType::kBFloat16 ? forward<BFloat16>(grid, problem) : forward<Float16>(grid, problem);
}

}  // namespace gloria_cuda
