// What the compiler is told about registers.
#pragma once

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// The compiler must not know what x is: it would keep the distance of every element from it, and
// move each on, with sixteen registers in memory.
template <typename T>
inline __attribute__((always_inline)) void hide([[maybe_unused]] T& x) {
#if defined(__x86_64__)
  asm("" : "+r"(x));
#endif
}

// sum += y * x. With sixteen registers the compiler, left alone, repeats loads in the products and
// moves sums between registers; where two threads share a core, instructions are what is short. In
// one piece each, or the compiler takes the three apart.
template <typename Vector, int N>
inline __attribute__((always_inline)) void add_product(Vector (&sum)[N], const float& y,
                                                       const Vector (&x)[N]) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(Vector) == 32 && N <= 3) {
    Vector all, a = sum[0], b = sum[N > 1 ? 1 : 0], c = sum[N > 2 ? 2 : 0];
    const Vector x0 = x[0], x1 = x[N > 1 ? 1 : 0], x2 = x[N > 2 ? 2 : 0];
    if constexpr (N == 3) {
      asm("vbroadcastss %4, %3\n\t"
          "vfmadd231ps %5, %3, %0\n\t"
          "vfmadd231ps %6, %3, %1\n\t"
          "vfmadd231ps %7, %3, %2"
          : "+x"(a), "+x"(b), "+x"(c), "=&x"(all)
          : "m"(y), "x"(x0), "x"(x1), "x"(x2));
    } else if constexpr (N == 2) {
      asm("vbroadcastss %3, %2\n\t"
          "vfmadd231ps %4, %2, %0\n\t"
          "vfmadd231ps %5, %2, %1"
          : "+x"(a), "+x"(b), "=&x"(all)
          : "m"(y), "x"(x0), "x"(x1));
    } else {
      asm("vbroadcastss %2, %1\n\t"
          "vfmadd231ps %3, %1, %0"
          : "+x"(a), "=&x"(all)
          : "m"(y), "x"(x0));
    }
    sum[0] = a;
    if constexpr (N > 1) sum[1] = b;
    if constexpr (N > 2) sum[2] = c;
    return;
  }
#endif
#pragma GCC unroll 16
  for (int v = 0; v < N; ++v) sum[v] += y * x[v];
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
