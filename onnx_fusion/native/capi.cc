// A plain C interface to the core, for tests: check a text, run a program on arrays.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "cpu/past_cache.h"
#include "machine.h"

namespace onnx_fusion::cpu {
double multiply_add(int64_t rounds);
size_t give_back_pages(const void* data, size_t bytes);
}  // namespace onnx_fusion::cpu

#define ONNX_FUSION_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using onnx_fusion::DType;
using onnx_fusion::Kernel;
using onnx_fusion::Parallel;
using onnx_fusion::Status;
using onnx_fusion::TensorView;

void report(const char* message, char* error, size_t size) {
  if (error == nullptr || size == 0) return;
  const size_t length = std::min(std::strlen(message), size - 1);
  std::memcpy(error, message, length);
  error[length] = '\0';
}

bool dtype_of(int onnx, DType* out) {
  for (size_t i = 0; i < onnx_fusion::kDTypeCount; ++i) {
    if (onnx_fusion::kDTypeOnnxCodes[i] != onnx) continue;
    *out = static_cast<DType>(i);
    return true;
  }
  return false;
}

void run_on_threads(void* self, size_t count, void (*task)(void*, size_t), void* arg) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(arg, i);
  };
  std::vector<std::thread> threads;
  const int extra = *static_cast<int*>(self) - 1;
  for (int i = 0; i < extra; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

struct OnnxFusionArray {
  void* data;
  const int64_t* dims;
  uint64_t rank;
  int32_t dtype;     // ONNX TensorProto code
  int32_t constant;  // the same data at every run
};

namespace {

bool views_of(const Kernel& kernel, const OnnxFusionArray* inputs, uint64_t count,
              std::vector<TensorView>* views, char* error, size_t error_size) {
  if (count != kernel.input_count()) {
    report("wrong number of inputs", error, error_size);
    return false;
  }
  for (uint64_t i = 0; i < count; ++i) {
    TensorView view{inputs[i].data, inputs[i].dims, inputs[i].rank, DType::f32};
    if (!dtype_of(inputs[i].dtype, &view.dtype)) {
      report("an input's type is unknown", error, error_size);
      return false;
    }
    views->push_back(view);
  }
  return true;
}

}  // namespace

ONNX_FUSION_EXPORT const char* onnx_fusion_version() { return ONNX_FUSION_VERSION; }

ONNX_FUSION_EXPORT const char* onnx_fusion_isa() {
  static const std::string name = onnx_fusion::isa_name();
  return name.c_str();
}

// Empty, or why ONNX_FUSION_ISA cannot be followed.
ONNX_FUSION_EXPORT const char* onnx_fusion_isa_error() { return onnx_fusion::isa_error().c_str(); }

// Does `rounds` of multiply-adds on one thread, and returns how many floating-point operations it
// did.
ONNX_FUSION_EXPORT double onnx_fusion_multiply_add(int64_t rounds) {
  return onnx_fusion::cpu::multiply_add(rounds);
}

// How many bytes of whole pages the system took back because it can read them from a file again.
ONNX_FUSION_EXPORT uint64_t onnx_fusion_give_back(const void* data, uint64_t bytes) {
  return onnx_fusion::cpu::give_back_pages(data, bytes);
}

// 0: runs. 1: not a valid program. 2: valid, but no kernel runs it.
ONNX_FUSION_EXPORT int onnx_fusion_check(const char* text, size_t length, char* error,
                                         size_t error_size) {
  try {
    Kernel::create({text, length}, nullptr, 0);
    return 0;
  } catch (const onnx_fusion::Unrunnable& refusal) {
    report(refusal.what(), error, error_size);
    return 2;
  } catch (const std::exception& failure) {
    report(failure.what(), error, error_size);
    return 1;
  }
}

// A kernel, or null and why. Inputs with `constant` set must keep their data while it lives.
ONNX_FUSION_EXPORT void* onnx_fusion_create(const char* text, size_t length,
                                            const OnnxFusionArray* inputs, uint64_t count,
                                            char* error, size_t error_size) {
  try {
    std::vector<TensorView> constants;
    for (uint64_t i = 0; i < count; ++i) {
      TensorView view{inputs[i].constant ? inputs[i].data : nullptr, inputs[i].dims, inputs[i].rank,
                      DType::f32};
      if (!dtype_of(inputs[i].dtype, &view.dtype)) view.data = nullptr;
      constants.push_back(view);
    }
    return Kernel::create({text, length}, constants.data(), constants.size()).release();
  } catch (const std::exception& failure) {
    report(failure.what(), error, error_size);
    return nullptr;
  }
}

ONNX_FUSION_EXPORT void onnx_fusion_destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

// The physical shapes of the outputs: ranks[i], then dims[16 * i ...]. 0 if the inputs fit the
// program.
ONNX_FUSION_EXPORT int onnx_fusion_shapes(const void* kernel, const OnnxFusionArray* inputs,
                                          uint64_t count, int64_t* dims, uint64_t* ranks,
                                          char* error, size_t error_size) {
  const Kernel& k = *static_cast<const Kernel*>(kernel);
  std::vector<TensorView> views;
  if (!views_of(k, inputs, count, &views, error, error_size)) return 1;
  onnx_fusion::BoundRef bound;
  const Status status = k.bind(views.data(), &bound);
  if (!status.ok()) {
    report(status.message.c_str(), error, error_size);
    return 1;
  }
  for (size_t o = 0; o < k.output_count(); ++o) {
    size_t rank;
    const int64_t* shape = k.output_dims(*bound, o, &rank);
    ranks[o] = rank;
    std::copy(shape, shape + rank, dims + 16 * o);
  }
  return 0;
}

// Outputs of so many bytes and more are written past the caches by kernels that are bound from now
// on; negative: as the machine's caches say.
ONNX_FUSION_EXPORT void onnx_fusion_set_past_cache(int64_t bytes) {
  onnx_fusion::cpu::set_past_cache_bytes(bytes);
}

// How many kernels a run with these inputs is: one per stage, or per group of stages that run as
// one. -1 if the inputs do not fit the program.
ONNX_FUSION_EXPORT int onnx_fusion_plans(const void* kernel, const OnnxFusionArray* inputs,
                                         uint64_t count) {
  const Kernel& k = *static_cast<const Kernel*>(kernel);
  std::vector<TensorView> views;
  if (!views_of(k, inputs, count, &views, nullptr, 0)) return -1;
  onnx_fusion::BoundRef bound;
  return k.bind(views.data(), &bound).ok() ? static_cast<int>(k.plan_count(*bound)) : -1;
}

// Runs `repeats` times on `threads` threads; `seconds` is the fastest run's time. The outputs have
// the sizes that onnx_fusion_shapes says.
ONNX_FUSION_EXPORT int onnx_fusion_run(const void* kernel, const OnnxFusionArray* inputs,
                                       uint64_t count, void* const* outputs, int threads,
                                       int repeats, double* seconds, char* error,
                                       size_t error_size) {
  const Kernel& k = *static_cast<const Kernel*>(kernel);
  std::vector<TensorView> views;
  if (!views_of(k, inputs, count, &views, error, error_size)) return 1;
  const Parallel parallel{&threads, threads, run_on_threads};
  *seconds = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    onnx_fusion::BoundRef bound;
    Status status = k.bind(views.data(), &bound);
    if (status.ok()) status = k.run(*bound, views.data(), outputs, parallel);
    if (!status.ok()) {
      report(status.message.c_str(), error, error_size);
      return 1;
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    *seconds = std::min(*seconds, took.count());
  }
  return 0;
}
