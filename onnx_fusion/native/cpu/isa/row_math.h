// What the idioms of rows share: joining a row's elements, and what is left of it behind whole
// vectors.
#pragma once

#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int64_t kBlock = 4096;  // summed on its own, so that errors do not grow with the length

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));

struct Add {
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return a + b;
  }
};
struct Larger {  // NaN may get lost
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return a > b ? a : b;
  }
  ONNX_FUSION_INLINE Floats join(Floats a, Floats b) { return most(a, b); }
};

template <class F>
ONNX_FUSION_INLINE float across(Floats v) {
#if defined(__AVX512F__)
  const Eight v8 = F::join(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#elif defined(__AVX2__)
  const Eight v8 = v;
#endif
#if defined(__AVX2__)
  const Four half = F::join(__builtin_shufflevector(v8, v8, 0, 1, 2, 3),
                            __builtin_shufflevector(v8, v8, 4, 5, 6, 7));
#else
  const Four half = v;
#endif
  const Four pair = F::join(half, __builtin_shuffle(half, FourInts{2, 3, 0, 1}));
  return F::join(pair[0], pair[1]);
}

// x[i] = e^x[i] for x[i] <= 0; a NaN stays one. Where products are not rounded, the one with ln 2
// is not split: what that loses, at most 3e-9 |x|, is less than the rounding of the difference that
// x is.
template <int N>
ONNX_FUSION_INLINE void exp_negative(Floats* x) {
  constexpr float kCoefficients[] = {4.18981612e-2f, 1.66676387e-1f, 4.99991477e-1f, 9.99999702e-1f,
                                     1.0f};
  Floats power[N], p[N], r[N];
#if defined(__AVX512F__)
  __mmask16 kept[N];  // what comes out normal
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    kept[i] = _mm512_cmp_ps_mask((__m512)x[i], (__m512)broadcast(-87.33654f), _CMP_NLT_UQ);
    power[i] = (Floats)_mm512_maskz_roundscale_ps(0xffff, (__m512)(x[i] * 1.44269504088896341f), 8);
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) p[i] = power[i];
#else
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    x[i] = most(broadcast(-88.0f), x[i]);
    // Adding 1.5 * 2^23 + 127 rounds to an integer and leaves it, biased, in the low bits.
    power[i] = x[i] * 1.44269504088896341f + 12583039.0f;
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) p[i] = power[i] - 12583039.0f;
#endif
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
#if defined(__FMA__) || defined(__aarch64__)
    r[i] = x[i] - p[i] * 0.69314718055994531f;
#else
    r[i] = (x[i] - p[i] * 0.693359375f) - p[i] * -2.12194440e-4f;
#endif
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) p[i] = r[i] * 8.29027221e-3f + kCoefficients[0];
#pragma GCC unroll 4
  for (int c = 1; c < 5; ++c) {
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) p[i] = p[i] * r[i] + kCoefficients[c];
  }
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
#if defined(__AVX512F__)
    x[i] = (Floats)_mm512_maskz_scalef_ps(kept[i], (__m512)p[i], (__m512)power[i]);
#else
    x[i] = p[i] * (Floats)((Bits)power[i] << 23);  // 2^-127 comes out as 0
#endif
  }
}

// The first n lanes of a vector, the others as `rest`.
ONNX_FUSION_INLINE Floats load_some(const float* p, int64_t n, float rest) {
  return load_where(p, mask_of((1u << n) - 1u), broadcast(rest));
}

// f(vector at i) joined over [0, n); f(i, n) where n lanes are left, which gives `rest` in the
// others.
template <class F, class Whole, class Part>
ONNX_FUSION_INLINE float fold(int64_t n, float rest, const Whole& whole, const Part& part) {
  float result = rest;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = n - begin < kBlock ? n : begin + kBlock;
    Floats acc[4] = {broadcast(rest), broadcast(rest), broadcast(rest), broadcast(rest)};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) acc[v] = F::join(acc[v], whole(i + v * kLanes));
    }
    for (; i + kLanes <= end; i += kLanes) acc[0] = F::join(acc[0], whole(i));
    if (i < end) acc[1] = F::join(acc[1], part(i, end - i));
    const Floats all = F::join(F::join(acc[0], acc[1]), F::join(acc[2], acc[3]));
    result = F::join(result, across<F>(all));
  }
  return result;
}

ONNX_FUSION_INLINE float largest(const float* x, int64_t n) {
  return fold<Larger>(
      n, -kInf, [&](int64_t i) __attribute__((always_inline)) { return load(x + i); },
      [&](int64_t i, int64_t left)
          __attribute__((always_inline)) { return load_some(x + i, left, -kInf); });
}

ONNX_FUSION_INLINE float total(const float* x, int64_t n) {
  return fold<Add>(
      n, 0.0f, [&](int64_t i) __attribute__((always_inline)) { return load(x + i); },
      [&](int64_t i, int64_t left)
          __attribute__((always_inline)) { return load_some(x + i, left, 0.0f); });
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
