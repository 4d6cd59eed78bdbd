// Libraries that make products and convolutions, found at run time: what they make faster than our
// kernels is theirs.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/driver.h"

namespace onnx_fusion::cuda {

// A call that is ready to be made. Reentrant.
class Prepared {
 public:
  virtual ~Prepared() = default;
  // `pointers` as render.h's Call has them. Returns the library's status, 0 for success.
  virtual int run(const uint64_t* pointers, Stream stream) const = 0;
};

class Library {
 public:
  virtual ~Library() = default;
  // The library, or null where there is none. An environment variable names its file, see
  // docs/cuda.md; none is used if that is empty.
  static const Library* get(LibraryName name);

  // "cuBLASLt 130100": a part of a cache's key.
  const std::string& version() const { return version_; }
  // The function that calls end in, and what the library says of a status.
  virtual const char* entry() const = 0;
  virtual std::string describe(int status) const = 0;
  // Null if the library has fewer ways for a call than `algorithm`, counted from 0, the best first
  // by its own guess. `context` is current.
  virtual std::unique_ptr<Prepared> prepare(Context context, const Call& call,
                                            int algorithm) const = 0;

 protected:
  // One handle of the library for each context. Never destroyed: contexts live as long as the
  // process, and that would wait for the device.
  struct Handle {
    void* handle = nullptr;
    std::mutex mutex;
  };
  // Null if the library makes none.
  Handle* handle(Context context) const;
  virtual int create_handle(void** handle) const = 0;
  std::string version_;

 private:
  mutable std::mutex mutex_;
  mutable std::map<Context, std::unique_ptr<Handle>> handles_;
};

// By name; null where one may not be used.
using Libraries = std::array<const Library*, kLibraries>;

// Null if a function is missing in the loaded file.
std::unique_ptr<const Library> open_blas(void* file);
std::unique_ptr<const Library> open_dnn(void* file);

}  // namespace onnx_fusion::cuda
