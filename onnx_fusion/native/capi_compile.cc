// A compiler in a process of its own, for cuda/compiler_main.cc.
#include <cstdlib>
#include <exception>

#include "cuda/ahead.h"

#define ONNX_FUSION_EXPORT extern "C" __attribute__((visibility("default")))

// Compiles what comes by `socket` for `arch` with the compiler at `nvrtc` into the cache `folder`,
// until that ends. Returns the process's exit code.
ONNX_FUSION_EXPORT int onnx_fusion_serve_compiler(int socket, const char* nvrtc, const char* arch,
                                                  const char* folder) {
  try {
    return onnx_fusion::cuda::serve_compiler(socket, nvrtc, std::atoi(arch), folder);
  } catch (const std::exception&) {
    return 1;
  }
}
