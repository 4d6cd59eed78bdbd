// The CUDA side by a plain C interface, for tests and scripts: a program and inputs to texts and
// launches.
#include <cstring>
#include <exception>
#include <vector>

#include "cuda/fuse.h"
#include "cuda/render.h"

#define ONNX_FUSION_EXPORT extern "C" __attribute__((visibility("default")))

// The same as in capi.cc.
struct OnnxFusionArray {
  void* data;
  const int64_t* dims;
  uint64_t rank;
  int32_t dtype;
  int32_t constant;
};

struct OnnxFusionDevice {
  int32_t arch, processors, tf32, aligned;
  int64_t shared_bytes, max_grid_x;
  int32_t wide;
  int32_t maker;  // of all products: cuda::Maker
  int64_t cache_bytes;
};

// Returns a description of the plan in JSON, to be freed, or of what is wrong; `failed` says which.
ONNX_FUSION_EXPORT char* onnx_fusion_cuda_plan(const char* text, size_t length,
                                               const OnnxFusionArray* inputs, uint64_t count,
                                               const OnnxFusionDevice* device, int* failed) {
  using namespace onnx_fusion;
  std::string result;
  *failed = 1;
  try {
    const Program program = cuda::fuse(parse({text, length}));
    if (count != program.inputs) throw ProgramError("wrong number of inputs");
    std::vector<TensorView> views;
    for (uint64_t i = 0; i < count; ++i) {
      TensorView view{inputs[i].data, inputs[i].dims, inputs[i].rank, DType::f32};
      for (size_t d = 0; d < kDTypeCount; ++d) {
        if (kDTypeOnnxCodes[d] == inputs[i].dtype) view.dtype = static_cast<DType>(d);
      }
      views.push_back(view);
    }
    BoundProgram bound;
    Status status = bind_program(program, views.data(), &bound);
    cuda::Device target;
    target.arch = device->arch;
    target.processors = device->processors;
    target.tf32 = device->tf32 != 0;
    target.aligned = device->aligned != 0;
    target.shared_bytes = device->shared_bytes;
    target.max_grid_x = device->max_grid_x;
    target.wide = device->wide != 0;
    target.makers.fill(static_cast<cuda::Maker>(device->maker));
    target.cache_bytes = device->cache_bytes;
    cuda::Plan plan;
    if (status.ok()) status = cuda::plan(bound, target, &plan);
    if (status.ok()) *failed = 0;
    result = status.ok() ? cuda::describe(plan) : status.message;
  } catch (const std::exception& error) {
    result = error.what();
  }
  char* out = new char[result.size() + 1];
  std::memcpy(out, result.c_str(), result.size() + 1);
  return out;
}

ONNX_FUSION_EXPORT void onnx_fusion_cuda_free(char* text) { delete[] text; }
