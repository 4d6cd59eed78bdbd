#include "ort/threads.h"

#include <sched.h>

#include <chrono>
#include <map>
#include <mutex>
#include <thread>

namespace onnx_fusion::ort {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::microseconds kPatience{500};

// Tasks that stay until all are there, or no other has come for a while.
struct Meeting {
  int expected;
  std::atomic<int> present{0};
  std::atomic<bool> over{false};

  static void attend(void* self, size_t) { static_cast<Meeting*>(self)->attend(); }

  void attend() {
    if (over.load(std::memory_order_acquire)) return;
    int last = present.fetch_add(1, std::memory_order_acq_rel) + 1;
    Clock::time_point patience = Clock::now() + kPatience;
    while (!over.load(std::memory_order_acquire)) {
      const int now = present.load(std::memory_order_acquire);
      if (now >= expected) break;
      const Clock::time_point time = Clock::now();
      if (now != last) {
        last = now;
        patience = time + kPatience;
      } else if (time > patience) {
        break;
      }
    }
    over.store(true, std::memory_order_release);
  }
};

bool is_due(uint32_t call) { return call == 0 || call == 16 || call == 256 || call == 4096; }

}  // namespace

int Threads::machine_threads() {
  static const int threads = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    const unsigned hint = std::thread::hardware_concurrency();
    return hint == 0 ? 1 : static_cast<int>(hint);
  }();
  return threads;
}

int Threads::observe(const Api* api, const OrtKernelContext* context, int seen) {
  // Past the last count this is one load: a session of one thread pays nothing else.
  if (calls_.load(std::memory_order_relaxed) > 4096) return seen;
  if (!is_due(calls_.fetch_add(1, std::memory_order_relaxed))) return seen;
  Meeting meeting;
  meeting.expected = machine_threads();
  const size_t tasks = static_cast<size_t>(meeting.expected);
  if (OrtStatus* status = parallel_for(api, context, &Meeting::attend, tasks, tasks, &meeting)) {
    release_status(api, status);
    return seen;
  }
  // Two sessions' runs may count at once; the larger answer stands.
  const int found = meeting.present.load();
  while (found > seen && !seen_.compare_exchange_weak(seen, found)) {
  }
  return found > seen ? found : seen;
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
