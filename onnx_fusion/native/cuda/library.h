// Libraries that make products and convolutions, found at run time: what they make faster than our
// kernels is theirs.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "cuda/driver.h"

namespace onnx_fusion::cuda {

// A call that is ready to be made. Reentrant.
class Prepared {
 public:
  virtual ~Prepared() = default;
  // `pointers` as render.h's Call has them. Returns the library's status, 0 for success, or
  // kNotForStream: then nothing was started, and our kernels are to be used in this run.
  virtual int run(const uint64_t* pointers, Stream stream, bool captured) const = 0;
  size_t workspace_bytes() const { return workspace_bytes_; }

  static constexpr int kNotForStream = -1;

 protected:
  size_t workspace_bytes_ = 0;
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

  // Notes for how many offers it computed what our kernels do, and for how many something else.
  void judge(int right, int wrong) const;
  // False once it was wrong several times, and more often than right: then it is not used any more
  // in this process.
  bool is_trusted() const { return wrong_ < kMostWrong || wrong_ <= right_; }

 protected:
  // Never destroyed: contexts live as long as the process, and that would wait for the device.
  struct Handle {
    void* handle = nullptr;
    std::mutex mutex;
  };
  // The handle that calls of a context are prepared with; null if the library makes none.
  Handle* handle(Context context) const { return find_handle({context, std::nullopt}, true); }
  // The handle of a stream of a context, which is the stream's alone: what one has may be recorded
  // by a graph while another runs. Null for further streams than kMostStreams, and where a handle
  // would have to be made for a stream that is captured.
  Handle* handle(Context context, Stream stream, bool captured) const {
    return find_handle({context, stream}, !captured);
  }
  // Of a stream, unless that is null.
  virtual int create_handle(void** handle, const Stream* stream) const = 0;
  std::string version_;

 private:
  static constexpr int kMostWrong = 4;
  static constexpr size_t kMostStreams = 8;  // of all contexts

  using Place = std::pair<Context, std::optional<Stream>>;
  Handle* find_handle(const Place& place, bool may_make) const;
  mutable std::mutex mutex_;
  mutable std::map<Place, std::unique_ptr<Handle>> handles_;
  mutable size_t streams_ = 0;
  mutable std::atomic<int> right_{0}, wrong_{0};
};

// By name; null where one may not be used.
using Libraries = std::array<const Library*, kLibraries>;

// Null if a function is missing in the loaded file.
std::unique_ptr<const Library> open_blas(void* file);
std::unique_ptr<const Library> open_dnn(void* file);

}  // namespace onnx_fusion::cuda
