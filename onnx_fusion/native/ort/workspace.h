// Device memory that kernels need between their launches: one buffer for each stream of a session.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "ort/abi.h"

namespace onnx_fusion::ort {

// What is on one stream runs in order, so all nodes of a session share its buffer. It only grows,
// by way of ONNX Runtime's allocator, and is freed with the session: what was started may still use
// an older one, and a captured graph runs on.
class Workspaces {
 public:
  // The same object for all nodes of a session that are alive; takes the allocator over.
  static std::shared_ptr<Workspaces> of(const void* session, const Api* api,
                                        OrtAllocator* allocator);

  Workspaces(const Api* api, OrtAllocator* allocator) : api_(api), allocator_(allocator) {}
  ~Workspaces();
  Workspaces(const Workspaces&) = delete;
  Workspaces& operator=(const Workspaces&) = delete;

  // While it lives, nobody else starts kernels that use the same buffer.
  struct Use {
    std::unique_lock<std::mutex> lock;
    void* data = nullptr;
  };
  OrtStatus* take(void* stream, size_t bytes, Use* use);

  // Memory apart from the buffers, which is given back.
  class Loan {
   public:
    Loan(const Workspaces& from, void* memory) : from_(from), memory_(memory) {}
    ~Loan() { from_.release(memory_); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    void* data() const;

   private:
    const Workspaces& from_;
    void* const memory_;
  };
  // Null if there is none.
  std::unique_ptr<Loan> lend(size_t bytes) const;

 private:
  void release(void* memory) const;
  struct Buffer {
    std::mutex mutex;
    char* data = nullptr;
    size_t bytes = 0;
  };
  Buffer& find(void* stream);

  const Api* api_;
  OrtAllocator* allocator_;
  std::mutex mutex_;  // guards what follows; each buffer has its own
  std::map<void*, std::unique_ptr<Buffer>> buffers_;
  std::vector<void*> allocated_;
};

}  // namespace onnx_fusion::ort
