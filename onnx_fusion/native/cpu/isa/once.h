// Loads and multiply-adds that the compiler, with sixteen registers, neither repeats nor gives
// addresses of their own (see product.h).
#pragma once

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <typename Float>
inline __attribute__((always_inline)) Float* move(Float* at, int64_t bytes) {
  return reinterpret_cast<Float*>(reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(bytes));
}

// A number `scale` (0, 1, 2, 4 or 8) times so many bytes from a pointer.
struct Scaled {
  const float* at;
  int64_t bytes;
  int scale;
};

// Volatile keeps their order, in which a sum stays in its register.
#if defined(__AVX2__) && !defined(__AVX512F__)

#define ONNX_FUSION_SCALED(Use) \
  if (from.scale == 1) {        \
    Use("(%[at],%[bytes])");    \
  } else if (from.scale == 2) { \
    Use("(%[at],%[bytes],2)");  \
  } else if (from.scale == 4) { \
    Use("(%[at],%[bytes],4)");  \
  } else {                      \
    Use("(%[at],%[bytes],8)");  \
  }

inline __attribute__((always_inline)) Floats load_once(const float* at) {
  Floats x;
  asm volatile("vmovups %1, %0" : "=x"(x) : "m"(*reinterpret_cast<const LooseFloats*>(at)));
  return x;
}

inline __attribute__((always_inline)) Floats load_once(const Scaled& from) {
  if (from.scale == 0) return load_once(from.at);
  Floats x;
#define ONNX_FUSION_LOAD(Place)        \
  asm volatile("vmovups " Place ", %0" \
               : "=x"(x)               \
               : [at] "r"(from.at), [bytes] "r"(from.bytes), "m"(*from.at))
  ONNX_FUSION_SCALED(ONNX_FUSION_LOAD)
#undef ONNX_FUSION_LOAD
  return x;
}

inline __attribute__((always_inline)) void multiply_add(Floats& sum, Floats x, Floats y) {
  Floats all = sum;
  asm volatile("vfmadd231ps %2, %1, %0" : "+x"(all) : "x"(x), "x"(y));
  sum = all;
}

inline __attribute__((always_inline)) void multiply_add(Floats& sum, Floats x, const float* y) {
  Floats all = sum;
  asm volatile("vfmadd231ps %2, %1, %0"
               : "+x"(all)
               : "x"(x), "m"(*reinterpret_cast<const LooseFloats*>(y)));
  sum = all;
}

inline __attribute__((always_inline)) void multiply_add(Floats& sum, Floats x, const Scaled& from) {
  if (from.scale == 0) return multiply_add(sum, x, from.at);
  Floats all = sum;
#define ONNX_FUSION_ADD(Place)                 \
  asm volatile("vfmadd231ps " Place ", %1, %0" \
               : "+x"(all)                     \
               : "x"(x), [at] "r"(from.at), [bytes] "r"(from.bytes), "m"(*from.at))
  ONNX_FUSION_SCALED(ONNX_FUSION_ADD)
#undef ONNX_FUSION_ADD
  sum = all;
}

#undef ONNX_FUSION_SCALED

#else

inline Floats load_once(const float* at) { return load(at); }

inline Floats load_once(const Scaled& from) { return load(move(from.at, from.bytes * from.scale)); }

inline void multiply_add(Floats& sum, Floats x, Floats y) { sum += x * y; }

inline void multiply_add(Floats& sum, Floats x, const float* y) { sum += x * load(y); }

inline void multiply_add(Floats& sum, Floats x, const Scaled& from) { sum += x * load_once(from); }

#endif

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
