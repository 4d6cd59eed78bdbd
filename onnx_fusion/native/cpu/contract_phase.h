// A contraction whose guards or zeros depend on a letter that both operands have: a transposed
// convolution, where each phase of the stride has taps and borders of its own. Every position of
// such letters is a contraction by itself, with the letter fixed.
#pragma once

#include <memory>

#include "cpu/stage.h"

namespace onnx_fusion::cpu {

// Null if the stage is not of this kind.
std::unique_ptr<StagePlan> plan_phases(const BoundProgram& bound, size_t stage,
                                       const TensorView* constants, size_t count);

}  // namespace onnx_fusion::cpu
