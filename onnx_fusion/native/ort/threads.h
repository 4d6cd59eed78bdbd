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
  Threads();

  // The same object for all kernels of a session that are alive; a session's logger stands for it.
  static std::shared_ptr<Threads> of(const void* session);

  // How many threads to divide a run's work between: those that were seen at work together. As
  // long as the machine has more, the first runs and one of many later ones try with all of them:
  // a pool that has fewer runs the tasks all the same, and a thread that is kept from running now
  // is seen another time.
  int count() {
    const int seen = seen_.load(std::memory_order_relaxed);
    if (seen >= most_) return seen;
    const uint32_t run = runs_.load(std::memory_order_relaxed);
    runs_.store(run + 1, std::memory_order_relaxed);  // one that is lost between threads is no loss
    const bool tries = run % kEvery == 0 || tried_.load(std::memory_order_relaxed) < kFirst;
    return tries ? most_ : seen;
  }

  // Runs task(arg, 0..count-1) for a run that divides its work between so many threads.
  OrtStatus* run(const Api* api, const OrtKernelContext* context, int threads, size_t count,
                 Task task, void* arg);

 private:
  static constexpr uint32_t kEvery = 64, kFirst = 256;

  const int most_;  // CPUs that the session's creator may run on
  std::atomic<int> seen_{1};
  std::atomic<uint32_t> runs_{0}, tried_{0};
};

}  // namespace onnx_fusion::ort
