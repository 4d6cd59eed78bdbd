// The CUDA driver, found at run time: the library loads, and its CPU kernels run, where there is
// none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "cuda/render.h"
#include "status.h"

namespace onnx_fusion::cuda {

using Context = struct CUctx_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using Stream = struct CUstream_st*;
using Event = struct CUevent_st*;
using Address = uint64_t;  // of device memory

// X(member, name in libcuda, type)
#define ONNX_FUSION_DRIVER(X)                                                                   \
  X(init, "cuInit", int(unsigned))                                                              \
  X(version, "cuDriverGetVersion", int(int*))                                                   \
  X(error_name, "cuGetErrorName", int(int, const char**))                                       \
  X(error_text, "cuGetErrorString", int(int, const char**))                                     \
  X(device, "cuDeviceGet", int(int*, int))                                                      \
  X(attribute, "cuDeviceGetAttribute", int(int*, int, int))                                     \
  X(retain_primary, "cuDevicePrimaryCtxRetain", int(Context*, int))                             \
  X(current, "cuCtxGetCurrent", int(Context*))                                                  \
  X(device_of_current, "cuCtxGetDevice", int(int*))                                             \
  X(push, "cuCtxPushCurrent_v2", int(Context))                                                  \
  X(pop, "cuCtxPopCurrent_v2", int(Context*))                                                   \
  X(load_module, "cuModuleLoadDataEx", int(Module*, const void*, unsigned, int*, void**))       \
  X(unload_module, "cuModuleUnload", int(Module))                                               \
  X(function, "cuModuleGetFunction", int(Function*, Module, const char*))                       \
  X(function_attribute, "cuFuncGetAttribute", int(int*, int, Function))                         \
  X(set_function_attribute, "cuFuncSetAttribute", int(Function, int, int))                      \
  X(launch, "cuLaunchKernel",                                                                   \
    int(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, \
        void**, void**))                                                                        \
  X(host_alloc, "cuMemHostAlloc", int(void**, size_t, unsigned))                                \
  X(host_free, "cuMemFreeHost", int(void*))                                                     \
  X(host_address, "cuMemHostGetDevicePointer_v2", int(Address*, void*, unsigned))               \
  X(device_name, "cuDeviceGetName", int(char*, int, int))                                       \
  X(copy_to_host, "cuMemcpyDtoHAsync_v2", int(void*, Address, size_t, Stream))                  \
  X(set_bytes, "cuMemsetD8Async", int(Address, unsigned char, size_t, Stream))                  \
  X(await, "cuStreamSynchronize", int(Stream))                                                  \
  X(is_capturing, "cuStreamIsCapturing", int(Stream, int*))                                     \
  X(exchange_capture, "cuThreadExchangeStreamCaptureMode", int(int*))                           \
  X(create_event, "cuEventCreate", int(Event*, unsigned))                                       \
  X(destroy_event, "cuEventDestroy_v2", int(Event))                                             \
  X(record, "cuEventRecord", int(Event, Stream))                                                \
  X(await_event, "cuEventSynchronize", int(Event))                                              \
  X(elapsed, "cuEventElapsedTime", int(float*, Event, Event))

// What the driver answers; the names are those of cuda.h without CUDA_ERROR_.
inline constexpr int kInvalidImage = 200, kNoBinary = 209, kInvalidPtx = 218, kUnsupportedPtx = 222,
                     kNotFound = 500;

struct Driver {
#define X(member, name, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  ONNX_FUSION_DRIVER(X)
#undef X

  std::string path;
  int release = 0;  // 1000 * major + 10 * minor of the newest CUDA that it knows

  // The process's driver, loaded and initialized once, or throws ProgramError. The environment
  // variable ONNX_FUSION_LIBCUDA names another file than libcuda.so.1.
  static const Driver& get();

  // Whether the file can be loaded.
  static bool exists();

  // "cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (218), ..."
  std::string describe(const char* call, int code) const;
  // Throws ProgramError unless `code` is 0.
  void check(const char* call, int code) const;
};

// "12.4" for 12040.
std::string release_text(int release);

// A device's numbers; needs no context. Throws ProgramError.
Device find_device(const Driver& driver, int ordinal);

// A device's context, which is the one that ONNX Runtime uses, and the device's numbers.
struct Place {
  Context context = nullptr;
  int ordinal = 0;
  Device device;
  std::string name;
  int max_threads = 1024;  // of a block
  int max_block[3] = {1024, 1024, 64};
};

// The current context if it is of device `ordinal`, else that device's primary one; throws
// ProgramError.
Place find_place(const Driver& driver, int ordinal);

// While it lives, `context` is this thread's.
class Entered {
 public:
  Entered(const Driver& driver, Context context);
  ~Entered();
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  int code() const { return code_; }

 private:
  const Driver& driver_;
  bool pushed_ = false;
  int code_ = 0;
};

// While it lives, this thread may wait and allocate though another's stream is captured.
class Uncaptured {
 public:
  explicit Uncaptured(const Driver& driver) : driver_(driver) { driver_.exchange_capture(&mode_); }
  ~Uncaptured() { driver_.exchange_capture(&mode_); }
  Uncaptured(const Uncaptured&) = delete;
  Uncaptured& operator=(const Uncaptured&) = delete;

 private:
  const Driver& driver_;
  int mode_ = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED, then what it was
};

}  // namespace onnx_fusion::cuda
