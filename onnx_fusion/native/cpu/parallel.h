// Splitting work over the caller's threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "machine.h"

namespace onnx_fusion {

// Calls body(begin, end, task) over [0, count) in `tasks` contiguous pieces of nearly equal size.
template <typename Body>
void parallel_ranges(const Parallel& parallel, int64_t count, int64_t tasks, const Body& body) {
  tasks = std::min(tasks, count);
  if (tasks <= 1 || parallel.threads <= 1 || parallel.run == nullptr) {
    if (count > 0) body(int64_t{0}, count, int64_t{0});
    return;
  }
  struct Context {
    const Body* body;
    int64_t count, tasks;
  } context{&body, count, tasks};
  parallel.run(
      parallel.self, static_cast<size_t>(tasks),
      [](void* arg, size_t index) {
        const Context& c = *static_cast<Context*>(arg);
        const int64_t i = static_cast<int64_t>(index);
        (*c.body)(c.count* i / c.tasks, c.count * (i + 1) / c.tasks, i);
      },
      &context);
}

// How many tasks work of about `nanoseconds` (on one thread) is worth: each gets some 6 us. Sharing
// work costs 2 us; and what the next stage reads then lies where that stage's threads look for it.
inline int64_t task_count(const Parallel& parallel, double nanoseconds) {
  if (parallel.threads <= 1) return 1;
  const double wanted = nanoseconds / 6000.0;
  return std::max<int64_t>(1, std::min<int64_t>(parallel.threads, static_cast<int64_t>(wanted)));
}

// Nanoseconds in which one thread reads so many bytes that are in no cache of its own: weights of a
// whole model, or what another stage wrote on several threads. Two read twice as fast.
inline double read_nanoseconds(double bytes) { return bytes / 30.0; }

}  // namespace onnx_fusion
