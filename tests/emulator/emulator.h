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

inline void __syncthreads() { emulator::wait(emulator::block.barrier, emulator::block.alive); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::exchange(0); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::from_lane<T>(emulator::exchange(value), emulator::lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return emulator::from_lane<T>(emulator::exchange(value), from);
}

// A copy arrives as late as it may: when its group is waited for. Until then its place holds NaNs.
inline void copy_async(void* to, const void* from, int bytes) {
  using namespace emulator;
  const auto place = static_cast<size_t>(static_cast<unsigned char*>(to) - block.shared);
  const bool good = (bytes == 0 || bytes == 16) && place % 16 == 0 && place + 16 <= block.shared_size &&
                    reinterpret_cast<uintptr_t>(from) % 16 == 0;
  if (!good) {
    if (block.error == nullptr) block.error = "a copy of memory that cannot be copied";
    return;
  }
  memset(to, 0xff, 16);
  copies().open.push_back({static_cast<unsigned char*>(to), from, bytes});
}
inline void commit_copies() {
  emulator::Copies& own = emulator::copies();
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}
template <int N>
void wait_copies() {
  emulator::Copies& own = emulator::copies();
  while (own.groups.size() > N) {
    for (const emulator::Copy& copy : own.groups.front()) {
      memset(copy.to, 0, 16);
      memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
    }
    own.groups.pop_front();
  }
}

namespace emulator {

// ldmatrix: lane 8 * i + r points to row r of matrix i, and has two elements of each.
inline void load(unsigned* out, const void* row, bool transposed) {
  const unsigned char* slots = exchange(row);
  for (int i = 0; i < 4; ++i) {
    unsigned short pair[2];
    for (int e = 0; e < 2; ++e) {
      const int r = transposed ? lane() % 4 * 2 + e : lane() / 4, c = transposed ? lane() / 4 : lane() % 4 * 2 + e;
      const auto* from = from_lane<const unsigned char*>(slots, 8 * i + r);
      if (reinterpret_cast<uintptr_t>(from) % 16 != 0) block.error = "a row of a matrix that is not aligned";
      memcpy(&pair[e], from + 2 * c, 2);
    }
    memcpy(&out[i], pair, 4);
  }
  exchange(0);  // it is one instruction of the warp: none goes on before all have read
}

}  // namespace emulator

inline void load_matrices(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* row) {
  unsigned out[4];
  emulator::load(out, row, false);
  a = out[0], b = out[1], c = out[2], d = out[3];
}
inline void load_transposed(unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* row) {
  unsigned out[4];
  emulator::load(out, row, true);
  a = out[0], b = out[1], c = out[2], d = out[3];
}

inline unsigned char* shared_bytes() { return emulator::block.shared; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}
inline float __uint_as_float(unsigned a) {
  float b;
  memcpy(&b, &a, 4);
  return b;
}
inline unsigned __float_as_uint(float a) {
  unsigned b;
  memcpy(&b, &a, 4);
  return b;
}
inline double __longlong_as_double(long long a) {
  double b;
  memcpy(&b, &a, 8);
  return b;
}
inline float __fdividef(float a, float b) { return a / b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }

inline float half_to_float(unsigned short a) {
  const int exponent = a >> 10 & 31, mantissa = a & 1023;
  float value = exponent == 31  ? (mantissa != 0 ? NAN : INFINITY)
                : exponent == 0 ? ldexpf(static_cast<float>(mantissa), -24)
                                : ldexpf(static_cast<float>(mantissa + 1024), exponent - 25);
  return (a & 0x8000) != 0 ? -value : value;
}
inline unsigned short float_to_half(float a) {
  const unsigned short sign = signbit(a) ? 0x8000 : 0;
  const float size = fabsf(a);
  if (isnan(a)) return static_cast<unsigned short>(sign | 0x7e00);
  if (size == 0) return sign;
  if (size >= 65520.0f) return static_cast<unsigned short>(sign | 0x7c00);
  int exponent = 0;
  frexpf(size, &exponent);
  exponent = exponent - 1 < -14 ? -14 : exponent - 1;
  const int units = static_cast<int>(rintf(ldexpf(size, 10 - exponent)));  // to even
  return static_cast<unsigned short>(sign + ((exponent + 14) << 10) + units);
}

inline unsigned float_to_tf32(float a) {
  const unsigned u = __float_as_uint(a);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
}

namespace emulator {

// mma.sync of a 16 x 8 tile: `product` is that of two words, one of each operand.
template <class F>
void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], F product) {
  struct Words {
    unsigned a[4], b[2];
  } own;
  memcpy(own.a, a, sizeof own.a);
  memcpy(own.b, b, sizeof own.b);
  const unsigned char* slots = exchange(own);
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
    for (int w = 0; w < 8; ++w) {
      const Words x = from_lane<Words>(slots, row % 8 * 4 + w % 4);
      const Words y = from_lane<Words>(slots, column * 4 + w % 4);
      c[i] += product(x.a[row / 8 + w / 4 * 2], y.b[w / 4]);
    }
  }
}

}  // namespace emulator

inline void multiply_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::multiply(c, a, b, [](unsigned x, unsigned y) {
    return half_to_float(static_cast<unsigned short>(x)) * half_to_float(static_cast<unsigned short>(y)) +
           half_to_float(static_cast<unsigned short>(x >> 16)) *
               half_to_float(static_cast<unsigned short>(y >> 16));
  });
}
inline void multiply_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::multiply(c, a, b, [](unsigned x, unsigned y) {
    return __uint_as_float(x << 16) * __uint_as_float(y << 16) +
           __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
  });
}
inline void multiply_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::multiply(c, a, b, [](unsigned x, unsigned y) {
    return __uint_as_float(x) * __uint_as_float(y);
  });
}
