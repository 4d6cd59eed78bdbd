// Three stages as one kernel:
//
//   scores  = dot(q, k), then anything pointwise      never in memory but as a block of rows
//   weights = softmax of the scores' rows             in place
//   result  = dot(weights, v), then anything pointwise
#pragma once

#include <memory>

#include "cpu/stage.h"

namespace onnx_fusion {

// How many stages an attention is.
inline constexpr size_t kAttentionStages = 3;

// What runs stages [stage, stage + kAttentionStages) if they are an attention, else null. The
// stages are a contraction, rows and a contraction. The temps that the first two store are not
// written. A strict program has none.
std::unique_ptr<StagePlan> plan_attention(const BoundProgram& bound, size_t stage);

}  // namespace onnx_fusion
