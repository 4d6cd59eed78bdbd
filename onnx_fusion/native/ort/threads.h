// How many threads a session's pool has. No function of ONNX Runtime tells, so it is observed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "ort/abi.h"

namespace onnx_fusion::ort {

// The threads of one session, shared by its kernels.
class Threads {
 public:
  // The same object for all kernels of a session that are alive; a session's logger stands for it.
  static std::shared_ptr<Threads> of(const void* session);

  // How many threads to divide work between. At the 1st, 16th, 256th and 4096th call, where the
  // machine has more threads than were seen so far, they are counted: tasks wait for each other
  // a while, so each is on a thread of its own.
  int count(const Api* api, const OrtKernelContext* context) {
    const int seen = seen_.load(std::memory_order_relaxed);
    if (seen >= machine_threads()) return seen;
    return observe(api, context, seen);
  }

  // The threads this process may run on.
  static int machine_threads();

 private:
  int observe(const Api* api, const OrtKernelContext* context, int seen);

  std::atomic<int> seen_{1};
  std::atomic<uint32_t> calls_{0};
};

}  // namespace onnx_fusion::ort
