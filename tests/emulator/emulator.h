// What kernels that native/cuda prints may call, on the threads of threads.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "threads.h"

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
