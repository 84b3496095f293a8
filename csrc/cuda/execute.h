// Starting a kernel: on a stream of a GPU under nvcc, on the emulator elsewhere.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "ptx.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#endif

namespace gloria_cuda {

struct Grid {
  int blocks, threads;
  uint32_t shared;  // bytes
  void* stream;
  int cluster = 1;
};

#ifdef __CUDACC__

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

template <auto kKernel, class Problem>
void execute(const Grid& grid, const Problem& problem) {
  check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared)),
        "shared memory of a kernel");
  cudaLaunchAttribute cluster{cudaLaunchAttributeClusterDimension};
  cluster.val.clusterDim = {static_cast<unsigned>(grid.cluster), 1, 1};
  cudaLaunchConfig_t config{dim3(grid.blocks), dim3(grid.threads),
                            grid.shared,       static_cast<cudaStream_t>(grid.stream),
                            &cluster,          grid.cluster > 1 ? 1u : 0u};
  check(cudaLaunchKernelEx(&config, kKernel, problem), "the start of a kernel");
}

#else

inline uint64_t schedule = 0;  // which order of events the emulator draws

template <auto kKernel, class Problem>
void execute(const Grid& grid, const Problem& problem) {
  const std::string error =
      emulated::launch(grid.blocks, grid.threads, grid.cluster, grid.shared, schedule, [&] { kKernel(problem); });
  if (!error.empty()) throw std::runtime_error(error);
}

#endif

}  // namespace gloria_cuda
