// The host's side of the kernels: one function for each, whatever the architecture. They throw std::runtime_error.
#pragma once

#include "problem.h"

namespace gloria_cuda {

struct Device {
  int processors;  // blocks that run at once
  bool hopper;     // whether it runs code for sm_90a
  void* stream;
};

void plan(const PlanProblem& problem, const Device& device);
void pack(const PackProblem& problem, const Device& device);
void pool(const PoolProblem& problem, const Device& device);
void coefficients(const CoefficientProblem& problem, const Device& device);
void gradient(const GradientProblem& problem, DType dtype, const Device& device);
void gram_gradient(const GramGradientProblem& problem, const Device& device);
void forward(const ForwardProblem& problem, DType dtype, const Device& device);

void forward_sm80(const ForwardProblem& problem, DType dtype, const Device& device);
void forward_sm90(const ForwardProblem& problem, DType dtype, const Device& device);
void word_rows_sm80(const ForwardProblem& problem, DType dtype, const Device& device);
void word_rows_sm90(const ForwardProblem& problem, DType dtype, const Device& device);

// Whether attention scale times log2(e) is small enough for float16 attention without a maximum: exp(-9) is not yet
// denormal.
inline bool bounded(const ForwardProblem& problem) {
  return problem.word_norm == WordNorm::kSoftmax && problem.scale <= 9.f * 1.4426951f;
}

// What word_rows_sm80 and word_rows_sm90 take, all of it: words that have nothing to do with each other.
inline bool for_word_rows(const ForwardProblem& problem) {
  return problem.word_norm == WordNorm::kNone && problem.norm == Norm::kNone;
}

// Of the rest, what forward_sm90 takes: images of up to 384 regions, by dot product or through the Gram matrix. It
// leaves texts of several tiles out.
inline bool for_sm90(const ForwardProblem& problem) {
  return problem.side <= kOnChip * kRows && (problem.norm == Norm::kNone || problem.norm == Norm::kGram) &&
         (problem.word_norm == WordNorm::kNone || bounded(problem));
}

}  // namespace gloria_cuda
