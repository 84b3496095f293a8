// The instructions that the kernels are written in: inline PTX under nvcc, an emulation of it elsewhere.
#pragma once

#ifdef __CUDACC__
#include "ptx_device.h"
#else
#include "emulated/instructions.h"
#endif
