// The contraction form (docs/tile_program.md, section 8): one `dot`, packed and tiled.
#pragma once

#include <memory>
#include <string>

#include "cpu/stage.h"

namespace onnx_fusion {

// "" if plan_contraction runs the stage, which `classify` called a contraction; otherwise the
// reason.
std::string contract_refusal(const Program& program, size_t stage);

// constants[i].data is set where input i is constant; count is 0 or the number of inputs. Constant
// operands are packed here, once per process.
std::unique_ptr<StagePlan> plan_contraction(const BoundProgram& bound, size_t stage,
                                            const TensorView* constants, size_t count);

}  // namespace onnx_fusion
