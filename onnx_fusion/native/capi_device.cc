// CUDA kernels by a plain C interface, for checks on a device: a program run on device memory.
#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "cuda/kernel.h"

#define ONNX_FUSION_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using onnx_fusion::Program;
using onnx_fusion::Status;
using onnx_fusion::TensorView;
namespace cuda = onnx_fusion::cuda;

struct DeviceKernel {
  std::shared_ptr<const Program> program;
  std::unique_ptr<cuda::Kernel> kernel;
};

int report(const std::string& message, char* error, size_t size) {
  if (error == nullptr || size == 0) return -1;
  const size_t length = std::min(message.size(), size - 1);
  std::memcpy(error, message.data(), length);
  error[length] = '\0';
  return -1;
}

// `dims` has those of all inputs, one after the other.
std::vector<TensorView> views_of(const Program& program, const void* const* data,
                                 const int64_t* dims) {
  std::vector<TensorView> views;
  for (size_t i = 0; i < program.inputs; ++i) {
    const onnx_fusion::Tensor& tensor = program.tensors[i];
    views.push_back({data == nullptr ? nullptr : data[i], dims, tensor.rank(), tensor.dtype});
    dims += tensor.rank();
  }
  return views;
}

}  // namespace

// A program's kernels on device 0, or null and why. `forced`: libraries make all that is offered to
// them, untimed.
ONNX_FUSION_EXPORT void* onnx_fusion_device_create(const char* text, size_t length,
                                                   const int64_t* dims, const char* nvrtc, int tf32,
                                                   int forced, char* error, size_t error_size) {
  try {
    auto made = std::make_unique<DeviceKernel>();
    made->program = std::make_shared<const Program>(onnx_fusion::parse({text, length}));
    cuda::Settings settings;
    settings.nvrtc = nvrtc;
    settings.tf32 = tf32 != 0;
    settings.forced = forced != 0;
    const std::vector<TensorView> views = views_of(*made->program, nullptr, dims);
    made->kernel = cuda::Kernel::create(made->program, {}, settings, views.data());
    return made.release();
  } catch (const std::exception& failure) {
    report(failure.what(), error, error_size);
    return nullptr;
  }
}

ONNX_FUSION_EXPORT void onnx_fusion_device_destroy(void* kernel) {
  delete static_cast<DeviceKernel*>(kernel);
}

// Starts the kernels on `stream`; all pointers are device memory. Returns how many bytes of
// workspace it needs, -1 for an error: if that is more than `workspace_bytes`, nothing was made
// yet.
ONNX_FUSION_EXPORT int64_t onnx_fusion_device_run(const void* kernel, const void* const* inputs,
                                                  const int64_t* dims, void* const* outputs,
                                                  void* workspace, int64_t workspace_bytes,
                                                  void* stream, char* error, size_t error_size) {
  const DeviceKernel& self = *static_cast<const DeviceKernel*>(kernel);
  try {
    const std::vector<TensorView> views = views_of(*self.program, inputs, dims);
    std::shared_ptr<const cuda::Bound> bound;
    const cuda::Launches* launches = nullptr;
    Status status = self.kernel->bind(views.data(), &bound);
    if (status.ok() && cuda::Kernel::is_open(*bound)) {
      int64_t wanted = 0;
      self.kernel->settle(*bound, views.data(), outputs, stream, [&](size_t bytes) {
        wanted = static_cast<int64_t>(bytes);
        return wanted <= workspace_bytes ? workspace : nullptr;
      });
      if (wanted > workspace_bytes) return wanted;
    }
    if (status.ok()) status = self.kernel->choose(*bound, views.data(), outputs, &launches);
    if (!status.ok()) return report(status.message, error, error_size);
    const auto needed = static_cast<int64_t>(cuda::Kernel::workspace_bytes(*launches));
    if (needed > workspace_bytes) return needed;
    status = self.kernel->run(*launches, views.data(), outputs, workspace, stream);
    return status.ok() ? needed : report(status.message, error, error_size);
  } catch (const std::exception& failure) {
    return report(failure.what(), error, error_size);
  }
}
