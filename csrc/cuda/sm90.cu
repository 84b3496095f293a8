// The kernels for sm_90a, which take what `for_sm90` says, and the tensor maps that their copies go by.
#include "execute.h"
#include "forward_sm90.h"
#include "launch.h"
#include "word_rows_sm90.h"

#ifdef __CUDACC__
#include <cudaTypedefs.h>
#endif

namespace gloria_cuda {

namespace {

// A tensor (items, rows, width) of 16-bit values, in boxes of `box_rows` rows of 64.
#ifdef __CUDACC__
TensorMap tensor_map(const void* base, DType dtype, uint64_t width, uint64_t rows, uint64_t items, uint32_t box_rows) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "the driver's tensor maps");
#else
  check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result),
        "the driver's tensor maps");
#endif
  if (result != cudaDriverEntryPointSuccess)
    throw std::runtime_error("the driver is older than CUDA 12.0 and has no tensor maps");
  const auto encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  const cuuint64_t extent[3] = {width, rows, items}, stride[2] = {width * 2, rows * width * 2};
  const cuuint32_t box[3] = {64, box_rows, 1}, step[3] = {1, 1, 1};
  TensorMap map;
  const CUresult status =
      encode(&map, dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
             const_cast<void*>(base), extent, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw std::runtime_error("the driver refuses a tensor map: error " + std::to_string(status));
  return map;
}
#else
TensorMap tensor_map(const void* base, DType, uint64_t width, uint64_t rows, uint64_t items, uint32_t box_rows) {
  return {static_cast<const uint8_t*>(base), {width, rows, items}, {2, width * 2, rows * width * 2}, {64, box_rows, 1}};
}
#endif

template <class T, WordNorm kNorm, bool kBounded, bool kCosine>
void forward(const Grid& grid, const sm90::Problem& problem) {
  problem.p.kept.affinities ? execute<sm90::forward<T, kNorm, kBounded, kCosine, true>>(grid, problem)
                            : execute<sm90::forward<T, kNorm, kBounded, kCosine, false>>(grid, problem);
}

template <class T, WordNorm kNorm, bool kBounded>
void forward(const Grid& grid, const sm90::Problem& problem) {
  problem.p.norm == Norm::kNone ? forward<T, kNorm, kBounded, false>(grid, problem)
                                : forward<T, kNorm, kBounded, true>(grid, problem);
}

template <class T>
void forward(const Grid& grid, const sm90::Problem& problem) {
  if (problem.p.word_norm == WordNorm::kNone)
    forward<T, WordNorm::kNone, false, true>(grid, problem);
  else
    forward<T, WordNorm::kSoftmax, true>(grid, problem);
}

template <class T>
void word_rows(const Grid& grid, const rows90::Problem& problem) {
  problem.p.kept.affinities ? execute<rows90::forward<T, true>>(grid, problem)
                            : execute<rows90::forward<T, false>>(grid, problem);
}

}  // namespace

void word_rows_sm90(const ForwardProblem& p, DType dtype, const Device& device) {
  using namespace rows90;
  const Problem problem{p, tensor_map(p.words, dtype, p.dim, static_cast<uint64_t>(p.plan.tiles) * kWords, 1, kWords),
                        tensor_map(p.regions, dtype, p.dim, p.side, p.images, kHalf)};
  const Grid grid{device.processors / kCtas * kCtas, kThreads, kShared, device.stream, kCtas};
  dtype == DType::kBFloat16 ? word_rows<BFloat16>(grid, problem) : word_rows<Float16>(grid, problem);
}

void forward_sm90(const ForwardProblem& p, DType dtype, const Device& device) {
  using namespace sm90;
  const bool gram = p.norm == Norm::kGram;
  const Problem problem{
      p, tensor_map(p.words, dtype, p.dim, static_cast<uint64_t>(p.plan.tiles) * kWords, 1, kWords),
      tensor_map(p.regions, dtype, p.dim, p.side, p.images, kShare),
      tensor_map(gram ? p.left : p.regions, DType::kFloat16, gram ? p.side : p.dim, p.side, p.images, kBlock)};
  const Grid grid{device.processors / kCtas * kCtas, kThreads, kShared, device.stream, kCtas};
  dtype == DType::kBFloat16 ? forward<BFloat16>(grid, problem) : forward<Float16>(grid, problem);
}

}  // namespace gloria_cuda
