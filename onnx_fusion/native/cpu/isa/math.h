// The functions that instructions.h names, written without branches so that loops over them become
// vector code. Errors are bounded by docs/tile_program.md, section 6, and tested against float64.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#define ONNX_FUSION_INLINE [[maybe_unused]] static inline __attribute__((always_inline))

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <class To, class From>
ONNX_FUSION_INLINE To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

constexpr float kInf = __builtin_inff();
constexpr float kNan = __builtin_nanf("");

template <class T>
using Unsigned = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

#define FOR_FLOATS(name, f, d)                            \
  ONNX_FUSION_INLINE float name(float a) { return f(a); } \
  ONNX_FUSION_INLINE double name(double a) { return d(a); }
#define FOR_INTS(signature_of) signature_of(int32_t) signature_of(int64_t)

FOR_FLOATS(m_abs, __builtin_fabsf, __builtin_fabs)
FOR_FLOATS(m_sqrt, __builtin_sqrtf, __builtin_sqrt)
FOR_FLOATS(m_floor, __builtin_floorf, __builtin_floor)
FOR_FLOATS(m_ceil, __builtin_ceilf, __builtin_ceil)
FOR_FLOATS(m_round, __builtin_rintf, __builtin_rint)
FOR_FLOATS(m_tan, __builtin_tanf, __builtin_tan)
FOR_FLOATS(m_sinh, __builtin_sinhf, __builtin_sinh)
FOR_FLOATS(m_cosh, __builtin_coshf, __builtin_cosh)
FOR_FLOATS(m_asinh, __builtin_asinhf, __builtin_asinh)
FOR_FLOATS(m_acosh, __builtin_acoshf, __builtin_acosh)
FOR_FLOATS(m_atanh, __builtin_atanhf, __builtin_atanh)

ONNX_FUSION_INLINE double m_exp(double a) { return __builtin_exp(a); }
ONNX_FUSION_INLINE double m_log(double a) { return __builtin_log(a); }
ONNX_FUSION_INLINE double m_asin(double a) { return __builtin_asin(a); }
ONNX_FUSION_INLINE double m_acos(double a) { return __builtin_acos(a); }
ONNX_FUSION_INLINE double m_atan(double a) { return __builtin_atan(a); }
ONNX_FUSION_INLINE double m_sin(double a) { return __builtin_sin(a); }
ONNX_FUSION_INLINE double m_cos(double a) { return __builtin_cos(a); }
ONNX_FUSION_INLINE double m_tanh(double a) { return __builtin_tanh(a); }
ONNX_FUSION_INLINE double m_erf(double a) { return __builtin_erf(a); }
ONNX_FUSION_INLINE double m_sigmoid(double a) { return 1.0 / (1.0 + __builtin_exp(-a)); }

// Cody and Waite's reduction by ln 2, a minimax polynomial on [-ln2/2, ln2/2], and 2^n added to the
// exponent.
ONNX_FUSION_INLINE float m_exp(float a) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const float shifted = a * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = a - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 8.29027221e-3f;
  p = p * r + 4.18981612e-2f;
  p = p * r + 1.66676387e-1f;
  p = p * r + 4.99991477e-1f;
  p = p * r + 9.99999702e-1f;
  p = p * r + 1.0f;
  const float y = bits<float>(bits<uint32_t>(p) + (bits<uint32_t>(shifted) << 23));
  const float low = a < -87.33654f ? 0.0f : y;
  return a > 88.722835f ? kInf : low;
}

ONNX_FUSION_INLINE float m_log(float a) {
  const bool tiny = a < 1.17549435e-38f;
  const float x = tiny ? a * 8388608.0f : a;
  // The mantissa in [sqrt(1/2), sqrt(2)).
  const int32_t shifted = static_cast<int32_t>(bits<uint32_t>(x) - 0x3f3504f3u);
  const int32_t e = (shifted >> 23) - (tiny ? 23 : 0);
  const int32_t i = (shifted & 0x007fffff) + 0x3f3504f3;
  const float f = bits<float>(i) - 1.0f;
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const float n = static_cast<float>(e);
  float y = f * z * p;
  y = y + n * -2.12194440e-4f;
  y = y - 0.5f * z;
  float result = f + y + n * 0.693359375f;
  result = a < kInf ? result : a;    // infinity and NaN
  result = a == 0.0f ? -kInf : result;
  return a < 0.0f ? kNan : result;
}

ONNX_FUSION_INLINE float m_sigmoid(float a) { return 1.0f / (1.0f + m_exp(-a)); }

// tanh and erf are a * P(a^2) / Q(a^2), minimax in relative error up to where they round to 1.
ONNX_FUSION_INLINE float between(float a, float limit) {
  const float low = a < -limit ? -limit : a;  // NaN passes
  return low > limit ? limit : low;
}

ONNX_FUSION_INLINE float m_tanh(float a) {
  const float x = between(a, 9.0f);
  const float z = x * x;
  float p = 1.4648215973522838e-8f;
  p = p * z + 2.1508467398234643e-5f;
  p = p * z + 3.5491674207150936e-3f;
  p = p * z + 1.342586874961853e-1f;
  p = p * z + 1.0f;
  float q = 8.295091333820892e-7f;
  q = q * z + 3.3739476930350065e-4f;
  q = q * z + 2.6079943403601646e-2f;
  q = q * z + 4.6759194135665894e-1f;
  q = q * z + 1.0f;
  return between(x * p / q, 1.0f);
}

ONNX_FUSION_INLINE float m_erf(float a) {
  const float x = between(a, 4.0f);
  const float z = x * x;
  float p = 3.2409000141342403e-6f;
  p = p * z + 4.2464490979909897e-4f;
  p = p * z + 5.2597480826079845e-3f;
  p = p * z + 7.703115791082382e-2f;
  p = p * z + 2.7279701828956604e-1f;
  p = p * z + 1.6664084196090698f;
  float q = 5.8646117395255715e-5f;
  q = q * z + 1.6630205791443586e-3f;
  q = q * z + 2.1503809839487076e-2f;
  q = q * z + 1.6526511311531067e-1f;
  q = q * z + 7.34031617641449e-1f;
  q = q * z + 1.476815938949585f;
  return between(x * p / q, 1.0f);
}

// r in [-pi/4, pi/4] and the quadrant; good for |a| < 2^20, beyond which the caller asks libm.
constexpr float kReducible = 1048576.0f;
ONNX_FUSION_INLINE float quadrant(float a, int32_t* q) {
  const double x = a;
  const double n = __builtin_rint(x * 0.63661977236758134308);
  *q = static_cast<int32_t>(n);
  return static_cast<float>(x - n * 1.57079632679489661923);
}
ONNX_FUSION_INLINE float sine(float r) {
  const float z = r * r;
  float p = -1.9515295891e-4f;
  p = p * z + 8.3321608736e-3f;
  p = p * z - 1.6666654611e-1f;
  return p * z * r + r;
}
ONNX_FUSION_INLINE float cosine(float r) {
  const float z = r * r;
  float p = 2.443315711809948e-5f;
  p = p * z - 1.388731625493765e-3f;
  p = p * z + 4.166664568298827e-2f;
  return p * (z * z) - 0.5f * z + 1.0f;
}
ONNX_FUSION_INLINE float m_sin(float a) {
  int32_t q;
  const float r = quadrant(a, &q);
  const float y = (q & 1) ? cosine(r) : sine(r);
  return (q & 2) ? -y : y;
}
ONNX_FUSION_INLINE float m_cos(float a) {
  int32_t q;
  const float r = quadrant(a, &q);
  const float y = (q & 1) ? sine(r) : cosine(r);
  return ((q + 1) & 2) ? -y : y;
}

constexpr float kHalfPi = 1.57079632679489661923f;
ONNX_FUSION_INLINE float with_sign(float magnitude, float sign) {
  return bits<float>(bits<uint32_t>(magnitude) | (bits<uint32_t>(sign) & 0x80000000u));
}

// |x| is brought below tan(pi/8): atan(x) = pi/4 + atan((x-1) / (x+1)) = pi/2 - atan(1 / x).
ONNX_FUSION_INLINE float m_atan(float a) {
  const float x = __builtin_fabsf(a);
  const bool above = x > 0.41421356f, far = x > 2.41421356f;
  float over = above ? x - 1.0f : x, under = above ? x + 1.0f : 1.0f;
  over = far ? -1.0f : over;
  under = far ? x : under;
  float begin = above ? kHalfPi / 2 : 0.0f;
  begin = far ? kHalfPi : begin;
  const float r = over / under;
  const float z = r * r;
  float p = 8.05374449538e-2f;
  p = p * z - 1.38776856032e-1f;
  p = p * z + 1.99777106478e-1f;
  p = p * z - 3.33329491539e-1f;
  return with_sign(begin + (p * z * r + r), a);
}

// asin(x) for 0 <= x <= 1/2; above it is pi/2 - 2 asin(sqrt((1 - x) / 2)).
ONNX_FUSION_INLINE float arc_sine(float x, float squared) {
  float p = 4.2163199048e-2f;
  p = p * squared + 2.4181311049e-2f;
  p = p * squared + 4.5470025998e-2f;
  p = p * squared + 7.4953002686e-2f;
  p = p * squared + 1.6666752422e-1f;
  return p * squared * x + x;
}
ONNX_FUSION_INLINE float m_asin(float a) {
  const float x = __builtin_fabsf(a);
  const bool above = x > 0.5f;
  const float half = 0.5f * (1.0f - x);
  const float z = above ? half : x * x;
  const float y = arc_sine(above ? __builtin_sqrtf(half) : x, z);
  return with_sign(above ? kHalfPi - 2.0f * y : y, a);
}
ONNX_FUSION_INLINE float m_acos(float a) {
  const float x = __builtin_fabsf(a);
  const bool above = x > 0.5f;
  const float half = 0.5f * (1.0f - x);
  const float y = arc_sine(above ? __builtin_sqrtf(half) : x, above ? half : x * x);
  const float outer = a < 0.0f ? 2.0f * kHalfPi - 2.0f * y : 2.0f * y;
  return above ? outer : kHalfPi - with_sign(y, a);
}

template <class T>
ONNX_FUSION_INLINE T m_neg(T a) {
  if constexpr (std::is_floating_point_v<T>) {
    return -a;
  } else {
    return static_cast<T>(Unsigned<T>{0} - static_cast<Unsigned<T>>(a));
  }
}
ONNX_FUSION_INLINE int32_t m_abs(int32_t a) { return a < 0 ? m_neg(a) : a; }
ONNX_FUSION_INLINE int64_t m_abs(int64_t a) { return a < 0 ? m_neg(a) : a; }
template <class T>
ONNX_FUSION_INLINE T m_sign(T a) {
  const T sign = a > 0 ? T{1} : T{-1};
  return a > 0 || a < 0 ? sign : a;  // zero and NaN
}
ONNX_FUSION_INLINE bool m_is_inf(float a) { return __builtin_fabsf(a) == kInf; }
ONNX_FUSION_INLINE bool m_is_inf(double a) { return __builtin_fabs(a) == __builtin_inf(); }
ONNX_FUSION_INLINE uint8_t m_not(uint8_t a) { return a ^ 1; }
ONNX_FUSION_INLINE int32_t m_not(int32_t a) { return ~a; }
ONNX_FUSION_INLINE int64_t m_not(int64_t a) { return ~a; }

#define ONNX_FUSION_WRAPPING(name, op)                                                   \
  template <class T>                                                                     \
  ONNX_FUSION_INLINE T name(T a, T b) {                                                  \
    if constexpr (std::is_floating_point_v<T>) {                                         \
      return a op b;                                                                     \
    } else {                                                                             \
      return static_cast<T>(static_cast<Unsigned<T>>(a) op static_cast<Unsigned<T>>(b)); \
    }                                                                                    \
  }
ONNX_FUSION_WRAPPING(m_add, +)
ONNX_FUSION_WRAPPING(m_sub, -)
ONNX_FUSION_WRAPPING(m_mul, *)
#undef ONNX_FUSION_WRAPPING

template <class T>
ONNX_FUSION_INLINE T m_min(T a, T b) {
  return (a < b) | (a != a) ? a : b;
}
template <class T>
ONNX_FUSION_INLINE T m_max(T a, T b) {
  return (a > b) | (a != a) ? a : b;
}

template <class T>
ONNX_FUSION_INLINE T m_div(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a / b;
  } else {
    return b == 0 ? T{0} : b == -1 ? m_neg(a) : static_cast<T>(a / b);
  }
}
ONNX_FUSION_INLINE float m_fmod(float a, float b) { return __builtin_fmodf(a, b); }
ONNX_FUSION_INLINE double m_fmod(double a, double b) { return __builtin_fmod(a, b); }
ONNX_FUSION_INLINE int32_t m_fmod(int32_t a, int32_t b) { return b == 0 || b == -1 ? 0 : a % b; }
ONNX_FUSION_INLINE int64_t m_fmod(int64_t a, int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }
template <class T>
ONNX_FUSION_INLINE T m_mod(T a, T b) {
  const T r = m_fmod(a, b);
  if constexpr (std::is_floating_point_v<T>) {
    if (r == 0) return b < 0 ? -T{0} : T{0};
  }
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
ONNX_FUSION_INLINE float m_pow(float a, float b) { return __builtin_powf(a, b); }
ONNX_FUSION_INLINE double m_pow(double a, double b) { return __builtin_pow(a, b); }

#undef FOR_FLOATS
#undef FOR_INTS

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
