// One functor per elementwise instruction, from the list in instructions.h.
#pragma once

#include "cpu/isa/math.h"
#include "instructions.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

#define X(name, arity, types, result, expression)              \
  struct F_##name {                                            \
    template <class T>                                         \
    ONNX_FUSION_INLINE auto apply(T a, [[maybe_unused]] T b) { \
      return expression;                                       \
    }                                                          \
  };
ONNX_FUSION_ELEMENTWISE(X)
#undef X

template <class R>
using Stored = std::conditional_t<std::is_same_v<R, bool>, uint8_t, R>;

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
