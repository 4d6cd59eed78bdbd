// Consecutive stages that hand images to each other, run band by band: a few lines of the last
// one's result at a time, and of each image between only the lines that these need, so that they
// stay in the second-level cache. Lines that the next band needs too are kept.
#pragma once

#include <functional>
#include <memory>

#include "cpu/stage.h"

namespace onnx_fusion {

using PlanStage =
    std::function<std::unique_ptr<StagePlan>(const BoundProgram& bound, size_t stage)>;

// What runs stages [stage, stage + *taken) if bands are worth it, else null. Each stage is planned
// by `plan`, for as many of its lines as a band has. Constants, which plans may pack, are the same
// for all bands. The temps between the stages are not written.
std::unique_ptr<StagePlan> plan_bands(const BoundProgram& bound, size_t stage,
                                      const TensorView* constants, size_t count,
                                      const PlanStage& plan, size_t* taken);

}  // namespace onnx_fusion
