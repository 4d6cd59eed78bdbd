// Depthwise convolution on channels-last images: vectors run along the channels, and a tile of
// neighbouring outputs stays in registers (isa/depth.cc). Inputs are read where they lie, unless
// each channel makes several or pixels share cache sets: then they are copied first. Windows 3, 5
// and 7 wide have kernels of their own, of which single outputs at the border go through a matrix
// of pointers; others walk each line in pieces of up to four taps.
#pragma once

#include <memory>
#include <vector>

#include "cpu/depth_kernels.h"
#include "cpu/tile.h"
#include "cpu/weights.h"
#include "cpu/window_sides.h"

namespace onnx_fusion::cpu {

// What follows the `dot` if tiles can do it in registers: bias per channel, and clamp, HardSigmoid,
// HardSwish or SiLU, times a number and with one added, stored as f32 with contiguous channels.
struct DepthFinish {
  int bias = -1;  // tensor
  int64_t bias_base = 0;
  DepthEnd end = DepthEnd::clamp;
  bool late = false;  // SiLU is a pass of its own over the tile
  float scale = 1, shift = 0, low = 0, high = 0;
  bool scaled = false;  // after that: * after[0] + after[1]
  float after[2] = {1, 0};
  int out = -1;  // tensor
  const Linear* store = nullptr;
};

// False if the stage's epilogue is another one.
bool find_depth_finish(const BoundStage& stage, const Axis& channel, DepthFinish* finish);

class DepthPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind.
  static std::unique_ptr<DepthPlan> make(const BoundProgram& bound, size_t stage,
                                         const TensorView* constants, size_t count);
  void run(const RunContext& context) const override;

 private:
  struct Block;
  struct Room;  // a task's buffers
  struct Target {
    float* out;  // of output (0, 0)
    int64_t row, pixel;
  };

  DepthPlan() = default;
  void find_columns(const BoundStage& stage, const Axis& own);
  bool choose_shape();
  bool choose_any(int64_t weights);
  void choose_block();
  bool choose_copies();
  void pack(const BoundMap& map, const TensorView* weights);
  int64_t packed_floats() const;
  void pack_weights(const float* data, float* out) const;
  void run_tiles(const Block& block, DepthShape shape, int64_t row, int64_t begin, int64_t end,
                 const Target& target) const;
  bool find_edges(int64_t y, int64_t x, int64_t columns, DepthTile* tile) const;
  DepthTile place_tile(const Block& block, DepthShape shape, int64_t row, int64_t pixel,
                       const Target& target) const;
  int64_t run_any(const Block& block, DepthShape shape, int64_t row, int64_t pixel, int64_t most,
                  const Target& target) const;
  int64_t run_tile(const Block& block, DepthShape shape, int64_t row, int64_t pixel, int64_t most,
                   const Target& target) const;
  void finish_late(const DepthTile& tile, DepthShape shape) const;
  void run_rows(const RunContext& context, const Block& block, int64_t row0, int64_t row1,
                const Room& room) const;
  void copy_rows(int64_t row0, int64_t row1, float* out, Block* block) const;
  void finish_strip(const RunContext& context, const Block& block, int64_t pixel0, int64_t pixel1,
                    const float* sums, const Room& room) const;

  const DepthKernels* kernels_ = nullptr;
  size_t stage_index_ = 0;
  Axis channel_, outer_, pixel_;
  int64_t channels_ = 1, outers_ = 1;
  int64_t repeat_ = 1;  // channels made of each one read
  WindowSide rows_, columns_;
  int input_ = -1, weight_ = -1;  // tensors
  const Linear* address_ = nullptr;
  int64_t step_ = 1;    // of the kernels
  bool any_ = false;    // kernels for any width
  int64_t any_step_ = 1, any_reach_ = 1;  // theirs, in columns
  int64_t spread_ = 1;  // outputs of a tile lie so far apart (dilation)
  int64_t column_ = 0;  // from a tile's column to the next, in positions of the dim
  DepthShape shape_ = kFour;
  bool skips_ = false;  // what is outside adds nothing
  int64_t block_ = 1, band_ = 1;  // channels and rows of outputs at once
  // Where channels are repeated or pixels share cache sets: floats, and columns.
  int64_t copy_floats_ = 0, copied_columns_ = 0;

  Linear weight_address_;
  int64_t weight_step_ = 0;
  std::shared_ptr<const PackedWeights> packed_;
  std::vector<float> outside_, zero_bias_;

  bool fast_ = false;
  DepthFinish finish_;
  bool transposed_ = false;  // the stores lie along the pixels
  int64_t strip_ = 1;        // outputs of a row carried through the epilogue at once
  std::unique_ptr<Epilogue> epilogue_;
};

}  // namespace onnx_fusion::cpu
