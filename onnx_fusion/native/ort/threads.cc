#include "ort/threads.h"

#include <sched.h>

#include <map>
#include <mutex>
#include <thread>

namespace onnx_fusion::ort {
namespace {

// Tasks, and on how many threads they were run.
struct Roll {
  Task task;
  void* arg;
  uint64_t number;
  std::atomic<int> present{0};

  static void attend(void* self, size_t index) {
    Roll& roll = *static_cast<Roll*>(self);
    thread_local uint64_t last = 0;
    if (last != roll.number) {
      last = roll.number;
      roll.present.fetch_add(1, std::memory_order_relaxed);
    }
    roll.task(roll.arg, index);
  }
};

int count_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const unsigned hint = std::thread::hardware_concurrency();
  return hint == 0 ? 1 : static_cast<int>(hint);
}

}  // namespace

Threads::Threads() : most_(count_cpus()) {}

OrtStatus* Threads::run(const Api* api, const OrtKernelContext* context, int threads, size_t count,
                        Task task, void* arg) {
  // Batches are claimed one by one, so a few per thread even out a thread that comes late.
  const size_t most = 4 * static_cast<size_t>(threads);
  const size_t batches = count < most ? count : most;
  int seen = seen_.load(std::memory_order_relaxed);
  if (threads <= seen) return parallel_for(api, context, task, count, batches, arg);
  static std::atomic<uint64_t> rolls{0};
  Roll roll{task, arg, rolls.fetch_add(1, std::memory_order_relaxed) + 1};
  OrtStatus* status = parallel_for(api, context, &Roll::attend, count, batches, &roll);
  tried_.fetch_add(1, std::memory_order_relaxed);
  const int present = roll.present.load(std::memory_order_relaxed);
  while (present > seen && !seen_.compare_exchange_weak(seen, present)) {
  }
  return status;
}

std::shared_ptr<Threads> Threads::of(const void* session) {
  // Never destroyed: sessions may outlive the statics of this library.
  static auto& mutex = *new std::mutex;
  static auto& sessions = *new std::map<const void*, std::weak_ptr<Threads>>;
  std::lock_guard<std::mutex> lock(mutex);
  for (auto it = sessions.begin(); it != sessions.end();) {
    it = it->second.expired() ? sessions.erase(it) : std::next(it);
  }
  std::weak_ptr<Threads>& entry = sessions[session];
  std::shared_ptr<Threads> threads = entry.lock();
  if (!threads) {
    threads = std::make_shared<Threads>();
    entry = threads;
  }
  return threads;
}

}  // namespace onnx_fusion::ort
