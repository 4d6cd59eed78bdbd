// Two neighbours along one axis, weighed by where an output lies between them: a resized image's
// rows, or its columns. Places and weights depend on one letter only, and are computed when shapes
// are bound.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/stage.h"

namespace onnx_fusion::cpu {

class MixPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind.
  static std::unique_ptr<MixPlan> make(const BoundProgram& bound, size_t stage);
  void run(const RunContext& context) const override;

 private:
  struct Loop {
    int64_t extent, in, out;  // strides in elements
  };
  // Where an output's neighbours are from where all else is 0, and their weights.
  struct Pair {
    int64_t places[2];
    float weights[2];
  };

  MixPlan() = default;
  bool arrange(std::vector<Loop> loops, int64_t step);
  void mix_run(const float* x, float* out, const Pair& pair, int64_t length, float* room) const;
  void mix_line(const float* x, float* out) const;
  void mix_turned(const float* x, float* out, float* room, float* block) const;

  int input_ = -1, output_ = -1;
  int64_t out_base_ = 0;
  std::vector<Pair> pairs_;
  std::vector<Loop> loops_;  // slowest first, without the elements of a run
  size_t mixed_ = 0;         // which of them is the mixed axis; of lines, none
  int64_t run_ = 1;  // elements that lie side by side on both sides; 1: lines of mixed ones
  Loop turned_{1, 1, 1};  // where lines are mixed: what lies side by side in the input
};

}  // namespace onnx_fusion::cpu
