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

// Whether `add_step` does a whole step of k of such a tile.
template <typename Vector, int R, int N>
constexpr bool kHasStep =
#if defined(__AVX2__) && !defined(__AVX512F__)
    sizeof(Vector) == 32 && R == 4 && N == 3;
#else
    false;
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
#define ONNX_FUSION_ROW(row, a, b, c) \
  "vbroadcastss " row                 \
  ", %%ymm15\n\t"                     \
  "vfmadd231ps %%ymm12, %%ymm15, " a  \
  "\n\t"                              \
  "vfmadd231ps %%ymm13, %%ymm15, " b  \
  "\n\t"                              \
  "vfmadd231ps %%ymm14, %%ymm15, " c "\n\t"
#endif

// Step U of k: each row's number times three vectors at x + 24 * U. Rows are `further` apart, the
// first and the third at `first` and `third`. All sixteen registers are spoken for, so that no sum
// moves.
template <int U, typename Vector>
inline __attribute__((always_inline)) void add_step([[maybe_unused]] Vector (&sum)[4][3],
                                                    [[maybe_unused]] const float* x,
                                                    [[maybe_unused]] const float* first,
                                                    [[maybe_unused]] const float* third,
                                                    [[maybe_unused]] int64_t further) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  Vector s0 = sum[0][0], s1 = sum[0][1], s2 = sum[0][2], s3 = sum[1][0], s4 = sum[1][1],
         s5 = sum[1][2], s6 = sum[2][0], s7 = sum[2][1], s8 = sum[2][2], s9 = sum[3][0],
         s10 = sum[3][1], s11 = sum[3][2];
  asm("vmovups %c[at](%[x]), %%ymm12\n\t"
      "vmovups %c[at]+32(%[x]), %%ymm13\n\t"
      "vmovups %c[at]+64(%[x]), %%ymm14\n\t" ONNX_FUSION_ROW("%c[k](%[first])", "%0", "%1", "%2")
          ONNX_FUSION_ROW("%c[k](%[first],%[further],4)", "%3", "%4", "%5")
              ONNX_FUSION_ROW("%c[k](%[third])", "%6", "%7", "%8")
                  ONNX_FUSION_ROW("%c[k](%[third],%[further],4)", "%9", "%10", "%11")
      : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5), "+x"(s6), "+x"(s7), "+x"(s8),
        "+x"(s9), "+x"(s10), "+x"(s11)
      : [x] "r"(x), [first] "r"(first), [third] "r"(third), [further] "r"(further),
        [at] "i"(U * 96), [k] "i"(U * 4)
      : "xmm12", "xmm13", "xmm14", "xmm15", "memory");
  sum[0][0] = s0, sum[0][1] = s1, sum[0][2] = s2, sum[1][0] = s3, sum[1][1] = s4, sum[1][2] = s5;
  sum[2][0] = s6, sum[2][1] = s7, sum[2][2] = s8, sum[3][0] = s9, sum[3][1] = s10, sum[3][2] = s11;
#endif
}

#undef ONNX_FUSION_ROW

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
