// cuBLASLt, found at run time: products that it makes faster than our kernels are its.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/driver.h"

namespace onnx_fusion::cuda {

class Blas {
 public:
  // The library, or null where there is none. The environment variable ONNX_FUSION_CUBLASLT names
  // its file; none is used if that is empty.
  static const Blas* get();

  // "cuBLASLt 130100": a part of a cache's key.
  const std::string& version() const { return version_; }
  // What it says of a status.
  std::string describe(int status) const;

  struct Table;
  const Table& table() const { return *table_; }
  // The library's handle in the current context, which is `context`; null if it makes none.
  void* handle(Context context) const;

 private:
  Blas() = default;
  static const Blas* open(const char* named);
  std::unique_ptr<const Table> table_;
  std::string version_;
  mutable std::mutex mutex_;
  mutable std::map<Context, void*> handles_;
};

// A call that is ready to be made. Reentrant.
class Multiplication {
 public:
  // Null if the library has fewer ways for it than `algorithm`, counted from 0, the best first by
  // its own guess. `context` is current.
  static std::unique_ptr<Multiplication> create(const Blas& blas, Context context,
                                                const Call& call, int algorithm);
  ~Multiplication();
  Multiplication(const Multiplication&) = delete;
  Multiplication& operator=(const Multiplication&) = delete;

  // `pointers` as render.h's Call has them. Returns the library's status, 0 for success.
  int run(const uint64_t* pointers, Stream stream) const;
  const Blas& blas() const { return blas_; }

 private:
  Multiplication(const Blas& blas, const Call& call);
  bool describe();
  bool choose(int algorithm);
  bool layout(void** made, DType dtype, int64_t rows, int64_t columns, int64_t lead,
              int64_t batch) const;

  const Blas& blas_;
  const Call call_;
  void* handle_ = nullptr;
  void* operation_ = nullptr;
  void* layouts_[4] = {};  // as the library takes them: b, a, c, d
  mutable std::mutex mutex_;  // the bias' address is a part of the operation
  struct Algorithm {
    uint64_t data[8];
  } algorithm_ = {};
};

}  // namespace onnx_fusion::cuda
