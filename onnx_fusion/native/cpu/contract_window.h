// A contraction in which one operand has no letter of its own and few taps are summed: depthwise
// convolution on ONNX's own layout, and on channels-last images where contract_depth.h has no tile
// for it. Nothing is packed or reused between channels; input rows are read where they lie.
#pragma once

#include <memory>
#include <vector>

#include "cpu/contract_tables.h"
#include "cpu/weights.h"

namespace onnx_fusion::cpu {

class WindowPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind.
  static std::unique_ptr<WindowPlan> make(const BoundProgram& bound, size_t stage,
                                          const TensorView* constants, size_t count);
  void run(const RunContext& context) const override;

 private:
  WindowPlan() = default;
  void plan_rows(int lanes);
  void plan_channels(int lanes, const TensorView* weights);
  void run_rows(const RunContext& context) const;
  void run_channels(const RunContext& context) const;
  void finish(const RunContext& context, const int64_t* fixed, int64_t row0, int64_t row1,
              int64_t column0, int64_t column1, const float* sums, int64_t ld, float* turned,
              char* scratch) const;

  size_t stage_index_ = 0;
  Axis channel_, pixel_, tap_;
  int64_t channels_ = 1, pixels_ = 1, taps_ = 1;
  bool by_channel_ = false;   // vectors lie along the channels
  bool transposed_ = false;   // the stores do not lie along the vectors
  int input_ = -1, weight_ = -1;  // tensors
  OperandTables x_, w_;

  int step_ = 1;  // by row
  std::vector<WindowVector> vectors_;
  std::vector<uint16_t> masks_;
  std::vector<int64_t> strips_;  // vectors at which strips begin, and the end

  int64_t padded_ = 0;  // by channel: floats of one tap's weights
  std::shared_ptr<const PackedWeights> packed_;
  std::vector<float> outside_;

  // Channels (by row) or pixels (by channel) carried through the epilogue at once.
  int64_t strip_ = 1;
  std::unique_ptr<Epilogue> epilogue_;
};

}  // namespace onnx_fusion::cpu
