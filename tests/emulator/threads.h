// CUDA's threads, shared memory, barriers and shuffles on one host thread, for the text that
// native/cuda prints. A thread runs until it waits; warps start in random order; shared memory starts
// as NaNs, and has exactly the bytes of the launch. What would hang, or a shuffle that a lane of the
// warp has left, is an error.
#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#define ONNX_FUSION_EMULATED 1
#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr size_t kStack = 256 << 10;
constexpr int kWarp = 32;
constexpr size_t kSlot = 128;  // bytes a lane shows to its warp

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
};

struct Warp {
  Barrier barrier;
  int alive = 0, size = 0;
  alignas(16) unsigned char slots[2][kWarp][kSlot];
};

struct Worker {  // a fiber; runs threads one after the other, holding each while it waits
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  int thread = -1;
  const Barrier* waits = nullptr;
  unsigned generation = 0;
};

struct Copy {  // that cp.async has begun
  unsigned char* to;
  const void* from;
  int bytes;
};

struct Copies {  // of a thread: those of no group yet, and the groups
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Block {
  ucontext_t scheduler;
  std::vector<std::unique_ptr<Worker>> workers;
  size_t next = 0, end = 0;  // which of them may start
  int alive = 0;
  Barrier barrier;
  std::vector<Warp> warps;
  Worker* current = nullptr;
  void (*call)(void*) = nullptr;
  void* arg = nullptr;
  unsigned char* shared = nullptr;
  size_t shared_size = 0;
  std::vector<Copies> copies;  // by thread
  const char* error = nullptr;
};

inline Block block;

inline uint3 place(int thread) {
  const unsigned t = static_cast<unsigned>(thread);
  return {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
}

inline void release(Barrier& barrier, int alive) {
  if (alive > 0 && barrier.arrived == alive) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
}

inline void wait(Barrier& barrier, int alive) {
  Worker* self = block.current;
  self->generation = barrier.generation;
  ++barrier.arrived;
  release(barrier, alive);
  if (barrier.generation != self->generation) return;
  self->waits = &barrier;
  swapcontext(&self->context, &block.scheduler);
}

inline void work() {
  Worker* self = block.current;
  for (;;) {
    while (block.next < block.end) {
      self->thread = static_cast<int>(block.next++);
      threadIdx = place(self->thread);
      block.call(block.arg);
      Warp& warp = block.warps[static_cast<size_t>(self->thread / kWarp)];
      release(block.barrier, --block.alive);
      release(warp.barrier, --warp.alive);
    }
    self->thread = -1;
    self->waits = nullptr;
    swapcontext(&self->context, &block.scheduler);
  }
}

inline Worker* new_worker() {
  auto worker = std::make_unique<Worker>();
  worker->stack.reset(new unsigned char[kStack]);
  getcontext(&worker->context);
  worker->context.uc_stack.ss_sp = worker->stack.get();
  worker->context.uc_stack.ss_size = kStack;
  worker->context.uc_link = nullptr;
  makecontext(&worker->context, work, 0);
  block.workers.push_back(std::move(worker));
  return block.workers.back().get();
}

inline void resume(Worker* worker) {
  block.current = worker;
  if (worker->thread >= 0) threadIdx = place(worker->thread);
  worker->waits = nullptr;
  swapcontext(&block.scheduler, &worker->context);
}

// Starts or resumes what of a warp can run; false if nothing can.
inline bool run_warp(int warp, std::vector<bool>& started) {
  const int first = warp * kWarp, last = first + block.warps[static_cast<size_t>(warp)].size;
  std::vector<Worker*> ready;
  Worker* idle = nullptr;
  for (auto& worker : block.workers) {
    const int t = worker->thread;
    if (t < 0) idle = worker.get();
    if (t < first || t >= last) continue;
    if (worker->waits == nullptr || worker->waits->generation != worker->generation) {
      ready.push_back(worker.get());
    }
  }
  if (!started[static_cast<size_t>(warp)]) {
    block.next = static_cast<size_t>(first);
    block.end = static_cast<size_t>(last);
    started[static_cast<size_t>(warp)] = true;
    resume(idle != nullptr ? idle : new_worker());
  } else if (block.next < block.end) {
    resume(idle != nullptr ? idle : new_worker());
  } else {
    for (Worker* worker : ready) {
      if (block.error == nullptr) resume(worker);
    }
    return !ready.empty();
  }
  return true;
}

// Runs the threads of one block.
inline void run_block(std::mt19937& random) {
  const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  const int warps = (threads + kWarp - 1) / kWarp;
  std::vector<int> shuffled(static_cast<size_t>(warps));
  for (int w = 0; w < warps; ++w) shuffled[static_cast<size_t>(w)] = w;
  block.warps.assign(static_cast<size_t>(warps), Warp());
  for (int w : shuffled) {
    Warp& warp = block.warps[static_cast<size_t>(w)];
    warp.alive = warp.size = std::min(threads, (w + 1) * kWarp) - w * kWarp;
  }
  block.next = block.end = 0;
  block.alive = threads;
  block.barrier = Barrier();
  block.copies.assign(static_cast<size_t>(threads), Copies());
  // One warp runs as far as it can while the others stand still: nothing but barriers orders them.
  std::vector<bool> started(static_cast<size_t>(warps));
  while (block.alive > 0 && block.error == nullptr) {
    std::shuffle(shuffled.begin(), shuffled.end(), random);
    bool ran = false;
    for (int w : shuffled) {
      while (run_warp(w, started) && block.error == nullptr) ran = true;
      if (ran) break;
    }
    if (!ran && block.error == nullptr) block.error = "threads wait for others that never come";
  }
}

inline Warp& warp() { return block.warps[static_cast<size_t>(block.current->thread / kWarp)]; }
inline Copies& copies() { return block.copies[static_cast<size_t>(block.current->thread)]; }
inline int lane() { return block.current->thread % kWarp; }

// Shows a value to the warp and returns where those of all lanes lie.
template <class T>
const unsigned char* exchange(const T& value) {
  static_assert(sizeof(T) <= kSlot, "a slot holds it");
  Warp& w = warp();
  if (w.alive != w.size && block.error == nullptr) block.error = "a lane of the warp has left";
  unsigned char(*slots)[kSlot] = w.slots[w.barrier.generation & 1];
  memcpy(slots[lane()], &value, sizeof value);
  wait(w.barrier, w.alive);
  return slots[0];
}

template <class T>
T from_lane(const unsigned char* slots, int lane) {
  T value;
  memcpy(&value, slots + static_cast<size_t>(lane) * kSlot, sizeof value);
  return value;
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
  kernel(*static_cast<std::decay_t<A>*>(args[I])...);
}

// Runs a grid, blocks in random order. Returns what went wrong, or null.
template <class... A>
const char* launch(void (*kernel)(A...), void** args, const unsigned* grid, const unsigned* dims,
                   unsigned shared, unsigned seed) {
  std::mt19937 random(seed);
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {dims[0], dims[1], dims[2]};
  struct Call {
    void (*kernel)(A...);
    void** args;
  } call_of{kernel, args};
  block.call = [](void* arg) {
    Call* c = static_cast<Call*>(arg);
    call(c->kernel, c->args, std::index_sequence_for<A...>());
  };
  block.arg = &call_of;
  block.error = nullptr;
  std::vector<uint64_t> blocks(uint64_t{grid[0]} * grid[1] * grid[2]);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (uint64_t b : blocks) {
    blockIdx = {static_cast<unsigned>(b % grid[0]), static_cast<unsigned>(b / grid[0] % grid[1]),
                static_cast<unsigned>(b / grid[0] / grid[1])};
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shared > 0 ? shared : 1) != 0) return "out of memory";
    memset(memory, 0xff, shared);
    block.shared = static_cast<unsigned char*>(memory);
    block.shared_size = shared;
    run_block(random);
    free(memory);
    if (block.error != nullptr) {
      block.workers.clear();
      return block.error;
    }
  }
  return nullptr;
}

}  // namespace emulator
