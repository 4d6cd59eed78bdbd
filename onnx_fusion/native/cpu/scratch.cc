#include "cpu/scratch.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace onnx_fusion {
namespace {

// A buffer, and the thread that used it last: its cache may still hold it.
struct Free {
  char* data;
  const void* thread;
};

// Free buffers by power of two. Kept for the life of the process; trimmed by nobody, since a model
// asks for the same sizes at every run.
struct Pool {
  static constexpr size_t kClasses = 48;
  std::mutex mutex;
  std::vector<Free> free[kClasses];
};

Pool& pool() {
  static Pool* const shared = new Pool;  // outlives every session, whatever the order of exit
  return *shared;
}

const void* this_thread() {
  static thread_local char here;
  return &here;
}

size_t class_of(size_t bytes) {
  size_t index = 12;
  while ((size_t{1} << index) < bytes) ++index;
  return index;
}

}  // namespace

Scratch::Scratch(size_t bytes) {
  if (bytes == 0 || bytes > (size_t{1} << 46)) return;
  const size_t index = class_of(bytes);
  {
    std::lock_guard<std::mutex> lock(pool().mutex);
    std::vector<Free>& free = pool().free[index];
    if (!free.empty()) {
      size_t i = free.size();
      while (i > 0 && free[i - 1].thread != this_thread()) --i;
      Free& found = i > 0 ? free[i - 1] : free.back();
      data_ = found.data;
      found = free.back();
      free.pop_back();
    }
  }
  if (data_ == nullptr) {
    data_ = static_cast<char*>(std::aligned_alloc(64, size_t{1} << index));
  }
  bytes_ = data_ != nullptr ? size_t{1} << index : 0;
}

Scratch::~Scratch() {
  if (data_ == nullptr) return;
  std::lock_guard<std::mutex> lock(pool().mutex);
  try {
    pool().free[class_of(bytes_)].push_back({data_, this_thread()});
  } catch (const std::bad_alloc&) {
    std::free(data_);
  }
}

}  // namespace onnx_fusion
