// The CUDA side by a plain C interface, for planning: what a device runs, and PTX to carry along.
#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "cuda/offline.h"

#define ONNX_FUSION_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

void report(const std::string& message, char* error, size_t size) {
  if (error == nullptr || size == 0) return;
  const size_t length = std::min(message.size(), size - 1);
  std::memcpy(error, message.data(), length);
  error[length] = '\0';
}

}  // namespace

// 0: a device runs it. 1: not a valid program. 2: valid, but no device runs it.
ONNX_FUSION_EXPORT int onnx_fusion_cuda_check(const char* text, size_t length, char* error,
                                              size_t error_size) {
  try {
    const std::string reason = onnx_fusion::cuda::refusal(onnx_fusion::parse({text, length}));
    report(reason, error, error_size);
    return reason.empty() ? 0 : 2;
  } catch (const std::exception& failure) {
    report(failure.what(), error, error_size);
    return 1;
  }
}

// PTX for inputs whose dims lie one after the other in `dims`, -1 where one is not known; to be
// freed with onnx_fusion_ptx_free. Null, and why in `error`, if there is none.
ONNX_FUSION_EXPORT char* onnx_fusion_ptx(const char* text, size_t length, const int64_t* dims,
                                         const char* nvrtc, char* error, size_t error_size) {
  try {
    const onnx_fusion::Program program = onnx_fusion::parse({text, length});
    std::vector<onnx_fusion::TensorView> views;
    for (size_t i = 0; i < program.inputs; ++i) {
      const onnx_fusion::Tensor& tensor = program.tensors[i];
      views.push_back({nullptr, dims, tensor.rank(), tensor.dtype});
      dims += tensor.rank();
    }
    const std::string ptx = onnx_fusion::cuda::make_ptx(program, views.data(), nvrtc);
    char* out = new char[ptx.size() + 1];
    std::memcpy(out, ptx.c_str(), ptx.size() + 1);
    return out;
  } catch (const std::exception& failure) {
    report(failure.what(), error, error_size);
    return nullptr;
  }
}

ONNX_FUSION_EXPORT void onnx_fusion_ptx_free(char* text) { delete[] text; }
