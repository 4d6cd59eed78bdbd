// The f32 functions that matter most, on whole vectors. The same formulas as in math.h, written out
// since the compiler turns comparisons around them into many more instructions.
#pragma once

#include "cpu/isa/lanes.h"
#include "cpu/isa/math.h"

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));

// The second operand where either is NaN. (Masked, since GCC warns of what the others leave
// undefined.)
#if defined(__AVX512F__)
ONNX_FUSION_INLINE Floats least(Floats a, Floats b) {
  return (Floats)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
}
ONNX_FUSION_INLINE Floats most(Floats a, Floats b) {
  return (Floats)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
}
#elif defined(__AVX2__)
ONNX_FUSION_INLINE Floats least(Floats a, Floats b) {
  return (Floats)_mm256_min_ps((__m256)a, (__m256)b);
}
ONNX_FUSION_INLINE Floats most(Floats a, Floats b) {
  return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
}
#elif defined(__SSE__)
ONNX_FUSION_INLINE Floats least(Floats a, Floats b) {
  return (Floats)_mm_min_ps((__m128)a, (__m128)b);
}
ONNX_FUSION_INLINE Floats most(Floats a, Floats b) {
  return (Floats)_mm_max_ps((__m128)a, (__m128)b);
}
#else
ONNX_FUSION_INLINE Floats least(Floats a, Floats b) { return a < b ? a : b; }
ONNX_FUSION_INLINE Floats most(Floats a, Floats b) { return a > b ? a : b; }
#endif

ONNX_FUSION_INLINE Floats v_between(Floats a, float limit) {
  return least(broadcast(limit), most(broadcast(-limit), a));
}

// exp of r in [-ln2/2, ln2/2].
ONNX_FUSION_INLINE Floats v_exp_part(Floats r) {
  Floats p = r * 8.29027221e-3f + 4.18981612e-2f;
  p = p * r + 1.66676387e-1f;
  p = p * r + 4.99991477e-1f;
  p = p * r + 9.99999702e-1f;
  return p * r + 1.0f;
}

// exp where a <= 0 (or NaN).
ONNX_FUSION_INLINE Floats v_exp_negative(Floats a) {
#if defined(__AVX512F__)
  a = most(broadcast(-110.0f), a);
  const Floats scaled = a * 1.44269504088896341f;
  const Floats n = (Floats)_mm512_maskz_roundscale_ps(0xffff, (__m512)scaled, 8);
  const Floats r = (a - n * 0.693359375f) - n * -2.12194440e-4f;
  return (Floats)_mm512_maskz_scalef_ps(0xffff, (__m512)v_exp_part(r), (__m512)n);
#else
  const Floats shifted = a * 1.44269504088896341f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (a - n * 0.693359375f) - n * -2.12194440e-4f;
  const Floats y = (Floats)((Bits)v_exp_part(r) + ((Bits)shifted << 23));
  return a < -87.33654f ? Floats{} : y;
#endif
}

ONNX_FUSION_INLINE Floats v_exp(Floats a) {
#if defined(__AVX512F__)
  return v_exp_negative(least(broadcast(89.0f), a));
#else
  return a > 88.722835f ? broadcast(kInf) : v_exp_negative(a);
#endif
}

// exp(-a) for a quotient of it: 2^n by the exponent, 2^(i/16) or so by a table, and a polynomial of
// what is left. -a * log2(e) is rounded once: the error grows with |a|, to 3e-6 of results near
// 1e-38.
#if defined(__AVX512F__)
alignas(64) constexpr float kPowers[32] = {
    1.0f,        1.0218972f,  1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f,  1.13878858f,
    1.1637249f,  1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f,
    1.35425556f, 1.38390994f, 1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f,
    1.5759809f,  1.61049032f, 1.64575553f, 1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f,
    1.8340081f,  1.87416768f, 1.91520655f, 1.95714414f};

ONNX_FUSION_INLINE Floats v_exp_minus(Floats a) {
  const __m512 x = (__m512)(a * -1.44269504088896341f);
  const Floats r = (Floats)_mm512_maskz_reduce_ps(0xffff, x, 5 << 4 | _MM_FROUND_TO_NEG_INF);
  const __m512 shifted = _mm512_maskz_add_round_ps(0xffff, x, _mm512_set1_ps(393216.0f),
                                                   _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  const __m512 power = _mm512_permutex2var_ps(_mm512_load_ps(kPowers), _mm512_castps_si512(shifted),
                                              _mm512_load_ps(kPowers + 16));
  const Floats p = (r * 0.24284062f + 0.69311655f) * r + 1.0f;
  return (Floats)power * (Floats)_mm512_maskz_scalef_ps(0xffff, (__m512)p, x);
}
#elif defined(__AVX2__)
alignas(32) constexpr float kPowers[8] = {1.0f,        1.09050775f, 1.18920708f, 1.29683959f,
                                          1.41421354f, 1.54221082f, 1.68179286f, 1.8340081f};

ONNX_FUSION_INLINE Floats v_exp_minus(Floats a) {
  // exp(-87) is next to nothing beside 1; at -88.72284 the exponent is that of infinity.
  const Floats x = most(broadcast(-88.72284f), least(broadcast(87.0f), a));
  const Floats shifted = x * -1.44269504088896341f + 1572864.0f;
  const Floats r = x * -1.44269504088896341f - (shifted - 1572864.0f);
  const __m256i i = _mm256_castps_si256((__m256)shifted);
  const __m256 power = _mm256_permutevar8x32_ps(_mm256_load_ps(kPowers), i);
  const Floats p = ((r * 0.0554989f + 0.24026407f) * r + 0.6931472f) * r + 1.0f;
  return p * (Floats)((Bits)power + ((Bits)i >> 3 << 23));
}
#else
ONNX_FUSION_INLINE Floats v_exp_minus(Floats a) { return v_exp(-a); }
#endif

ONNX_FUSION_INLINE Floats v_sigmoid(Floats a) { return 1.0f / (1.0f + v_exp_minus(a)); }

// a * sigmoid(a) as one quotient, which costs a product and a rounding less.
ONNX_FUSION_INLINE Floats v_silu(Floats a) { return a / (1.0f + v_exp_minus(a)); }

ONNX_FUSION_INLINE Floats v_tanh(Floats a) {
  const Floats x = v_between(a, 9.0f);
  const Floats z = x * x;
  Floats p = z * 1.4648215973522838e-8f + 2.1508467398234643e-5f;
  p = p * z + 3.5491674207150936e-3f;
  p = p * z + 1.342586874961853e-1f;
  p = p * z + 1.0f;
  Floats q = z * 8.295091333820892e-7f + 3.3739476930350065e-4f;
  q = q * z + 2.6079943403601646e-2f;
  q = q * z + 4.6759194135665894e-1f;
  q = q * z + 1.0f;
  return v_between(x * p / q, 1.0f);
}

ONNX_FUSION_INLINE Floats v_erf(Floats a) {
  const Floats x = v_between(a, 4.0f);
  const Floats z = x * x;
  Floats p = z * 3.2409000141342403e-6f + 4.2464490979909897e-4f;
  p = p * z + 5.2597480826079845e-3f;
  p = p * z + 7.703115791082382e-2f;
  p = p * z + 2.7279701828956604e-1f;
  p = p * z + 1.6664084196090698f;
  Floats q = z * 5.8646117395255715e-5f + 1.6630205791443586e-3f;
  q = q * z + 2.1503809839487076e-2f;
  q = q * z + 1.6526511311531067e-1f;
  q = q * z + 7.34031617641449e-1f;
  q = q * z + 1.476815938949585f;
  return v_between(x * p / q, 1.0f);
}

// x / d for one d, rounded as a division is: the quotient by the reciprocal, and its remainder's
// share (Markstein). Where that cannot be done (no fused multiply-add, d near the ends of the
// range) it divides.
struct Divisor {
  Floats d, r;
  bool divides;

  explicit Divisor(float value) : d(broadcast(value)), r(broadcast(1.0f / value)) {
    const float size = __builtin_fabsf(value);
#if defined(__FMA__) || defined(__aarch64__)
    divides = !(size > 1e-18f && size < 1e18f);
#else
    divides = true;
    (void)size;
#endif
  }
  // Of finite x no larger than d.
  __attribute__((always_inline)) Floats share(Floats x) const {
    const Floats q = x * r;
    return q + (x - q * d) * r;
  }
  __attribute__((always_inline)) Floats quotient(Floats x) const {
    const Floats better = share(x);
    return better == better ? better : x * r;  // infinities
  }
};

// out[i] = f(a[i]) for vectors, two at a time; f is also asked for a last one that is part rubbish.
template <class F>
ONNX_FUSION_INLINE void each_vector(float* out, const float* a, int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Floats first = f(load(a + i)), second = f(load(a + i + kLanes));
    store(out + i, first);
    store(out + i + kLanes, second);
  }
  for (; i < n; i += kLanes) {
    if (n - i >= kLanes) {
      store(out + i, f(load(a + i)));
      continue;
    }
    float part[kLanes] = {};
    const size_t bytes = static_cast<size_t>(n - i) * sizeof(float);
    __builtin_memcpy(part, a + i, bytes);
    store(part, f(load(part)));
    __builtin_memcpy(out + i, part, bytes);
  }
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
