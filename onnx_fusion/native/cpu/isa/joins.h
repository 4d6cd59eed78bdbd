// How two elements of a reduction become one, for floats and vectors of them. NaN stays NaN, unless a
// join says that it checks for it.
#pragma once

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

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
