// Pointwise stages that are what may follow a contraction (finish.h), on the pixels of an image
// with channels last: a normalization of each channel with its clamp. Gains and biases stay in
// registers while pixels go through, to where they belong: a piece of a Concat is a few channels of
// each pixel.
#pragma once

#include <memory>

#include "cpu/finish.h"

namespace onnx_fusion::cpu {

class AffinePlan final : public StagePlan {
 public:
  // Null if the stage is of another kind, or if the tile machine is expected to be as fast.
  static std::unique_ptr<AffinePlan> make(const BoundProgram& bound, size_t stage);
  void run(const RunContext& context) const override;

 private:
  AffinePlan() = default;

  int input_ = -1;  // tensor
  int64_t base_ = 0, ld_ = 0;  // of its pixels
  int64_t rows_ = 1, columns_ = 1;  // pixels, channels
  std::unique_ptr<Finish> finish_;
};

}  // namespace onnx_fusion::cpu
