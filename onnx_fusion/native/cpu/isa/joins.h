// How two elements of a reduction become one, for floats and vectors of them. NaN stays NaN, unless
// a join says that it checks for it.
#pragma once

#include "cpu/isa/lanes.h"
#include "cpu/isa/math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

struct Sum {
  static constexpr float kNothing = 0.0f;
  static constexpr bool kChecks = false;
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return a + b;
  }
};
struct Max {
  static constexpr float kNothing = -kInf;
  static constexpr bool kChecks = false;
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    const T larger = a > b ? a : b;  // b if either is NaN
    return a != a ? a : larger;
  }
};
struct Min {
  static constexpr float kNothing = kInf;
  static constexpr bool kChecks = false;
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    const T smaller = a < b ? a : b;
    return a != a ? a : smaller;
  }
};

// Indices that turn a vector; in memory, since GCC would put a loop's together lane by lane.
struct Turned {
  alignas(64) int32_t at[kLanes];
};
constexpr Turned turned(int by) {
  Turned indices{};
  for (int j = 0; j < kLanes; ++j) indices.at[j] = (j + by) % kLanes;
  return indices;
}
constexpr Turned kTurned[4] = {turned(8), turned(4), turned(2), turned(1)};

// All lanes joined.
template <class F>
ONNX_FUSION_INLINE float across(Floats v) {
#pragma GCC unroll 4
  for (int k = kLanes == 16 ? 0 : kLanes == 8 ? 1 : 2; k < 4; ++k) {
    Ints by;
    __builtin_memcpy(&by, kTurned[k].at, sizeof by);
    v = F::join(v, __builtin_shuffle(v, by));
  }
  return v[0];
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
