// The custom op on a CUDA device: the same name, arguments and text as on the CPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ort/op.h"

namespace onnx_fusion::ort {

inline constexpr const char* kCudaProvider = "CUDAExecutionProvider";

// What a session asks of its CUDA kernels.
struct CudaOptions {
  std::string provider = kCudaProvider;  // the execution provider that they are for
  std::string nvrtc;                     // the compiler's path; empty: where it usually is
  bool ptx = false;                      // may what models carry run as it is
  bool tf32 = false;                     // may f32 products round their operands to tf32
  bool blas = true;                      // may products be cuBLASLt's where that is faster
  bool dnn = true;                       // may convolutions be cuDNN's where that is faster
};

struct CudaRegion : FusedRegion {
  CudaOptions options;

  CudaRegion(const Api* table, uint32_t table_version, std::string name, CudaOptions asked);
};

// Starts to compile what a node of this text will need, with inputs of these shapes (-1: not
// known).
void compile_ahead(const CudaOptions& options, const Program& program, const std::string& text,
                   const std::vector<std::vector<int64_t>>& shapes);

// Whether this machine has a CUDA driver; it is not initialized.
bool has_driver();

}  // namespace onnx_fusion::ort
