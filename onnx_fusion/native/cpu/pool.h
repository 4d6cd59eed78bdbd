// Pooling: a sum, maximum, minimum or average over a window, row by row in two passes. First the
// rows under the window (of all its planes) are joined, over all columns at once, into a buffer
// with a border; then, for each output, the columns of that buffer. Both passes run along memory,
// in either layout: where channels lie side by side here, where columns do in isa/pool.cc.
#pragma once

#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pool_divisor.h"
#include "cpu/tile.h"
#include "cpu/window_sides.h"

namespace onnx_fusion::cpu {

class PoolPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind.
  static std::unique_ptr<PoolPlan> make(const BoundProgram& bound, size_t stage);
  void run(const RunContext& context) const override;

 private:
  struct Room;  // a task's buffers

  PoolPlan() = default;
  bool find_lanes(const BoundStage& stage);
  bool takes_pairs() const;
  void run_pairs(const RunContext& context) const;
  void run_lines(const RunContext& context) const;
  void run_images(const RunContext& context) const;
  void run_row(const RunContext& context, int64_t i, int64_t lanes, float* sums,
               const Room& room) const;
  void finish(const RunContext& context, int64_t first, int64_t last, int64_t lanes,
              const Room& room) const;
  void join_rows(const float* x, int64_t row, int64_t lanes, const Room& room) const;
  void join_columns(int64_t lanes, float* out, int64_t pixel, const Room& room) const;

  size_t stage_index_ = 0;
  int input_ = -1;
  int out_ = -1;  // of a result stored as it is
  const Linear* address_ = nullptr;
  const Linear* store_ = nullptr;
  WindowPass pass_ = nullptr;
  void (*pairs_)(const PairRows& rows) = nullptr;  // rows of windows two wide, side by side
  void (*lines_)(const PoolRows& rows) = nullptr;  // where columns lie side by side
  PoolDivisor divisor_;
  float nothing_ = 0;

  WindowSide planes_, rows_, columns_;
  Axis outer_;
  int channel_ = -1;       // letter of the lanes; -1: lanes are the columns
  int64_t outers_ = 1, channels_ = 1;
  int64_t block_ = 1;      // channels at once
  int64_t first_ = 0, width_ = 1;        // the buffer's columns, in positions of the dim
  int64_t inside0_ = 0, inside1_ = 1;    // those of them that exist
  Axis rows_axis_, lanes_axis_;          // of the epilogue
  std::unique_ptr<Epilogue> epilogue_;
};

}  // namespace onnx_fusion::cpu
