// Convolution in groups of few channels on channels-last images (isa/group.cc). The lines under a
// window are copied first, with what is outside, a few channels of each pixel side by side.
//
//     groups of 4      a a a a b b b b c c c c d d d d     outputs of one vector
//     input            a0 a0 a0 a0 b0 b0 b0 b0 ...         their channels 0, of every pixel in turn
//
// Where groups do not fill lanes evenly, or windows are not 3 wide, lines are copied as planes, one
// for each channel summed: of such vectors, or of the single channel of the one group that is met.
#pragma once

#include <memory>
#include <vector>

#include "cpu/finish.h"
#include "cpu/group_kernels.h"
#include "cpu/tile.h"
#include "cpu/weights.h"
#include "cpu/window_sides.h"

namespace onnx_fusion::cpu {

class GroupPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind.
  static std::unique_ptr<GroupPlan> make(const BoundProgram& bound, size_t stage,
                                         const TensorView* constants, size_t count);
  void run(const RunContext& context) const override;

 private:
  static constexpr int64_t kMostTapRows = 16;
  struct Letters {
    int group, made, summed;
  };
  struct Room {  // a task's buffers
    float* lines;  // [y % ring][column][channel]
    float* sums;
    char* scratch;
  };

  GroupPlan() = default;
  bool choose_kind();
  bool choose_planes();
  bool choose_lines();
  void choose_tile();
  bool choose_spread(int64_t end);
  bool pack(const BoundMap& map, const Letters& letters, const TensorView& weights);
  void pack_weights(const BoundMap& map, const Letters& letters, const float* data,
                    float* out) const;
  void copy_line(const float* x, int64_t y, int64_t block, const Room& room) const;
  void copy_planes(const float* x, int64_t block, int64_t begin, int64_t end, float* line) const;
  void run_row(const float* x, int64_t row, int64_t block, const Room& room, int64_t* ready,
               const FinishRows& to) const;

  const GroupKernels* kernels_ = nullptr;
  size_t stage_index_ = 0;
  Axis outer_, pixel_, column_;
  int64_t outers_ = 1;
  WindowSide rows_, columns_;
  int input_ = -1;  // tensor
  const Linear* address_ = nullptr;
  GroupKind kind_ = kAlone;
  int64_t summed_ = 1, group_ = 1;  // channels that a group reads, and makes
  int64_t channels_ = 1;  // of the result
  // Channels that a block has of the input and of the result, and those of one call.
  int64_t block_in_ = 1, block_out_ = 1, unit_ = 1;
  int64_t blocks_ = 1;
  bool planes_ = false;
  int64_t width_ = 1;  // columns of a line, with what is outside
  int64_t line_ = 1;  // floats of a line
  int64_t plane_ = 1;  // of one of its planes
  int64_t ring_ = 1;  // lines kept
  int tile_ = 0, rest_ = 0;  // the kernels for its outputs, and for those left
  int64_t tap_row_ = 0, unit_floats_ = 0;  // weights of a line, of a unit
  int64_t strip_ = 1;  // rows of outputs carried through the epilogue at once
  std::vector<GroupSpread> spreads_;  // by vector of outputs
  std::shared_ptr<const PackedWeights> weights_;
  std::unique_ptr<Epilogue> epilogue_;
  bool finishes_ = false;  // tiles do what follows
};

}  // namespace onnx_fusion::cpu
