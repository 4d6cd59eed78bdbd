// A convolution of few channels and the pooling that follows it, in one plan: the maximum over
// windows of 2 x 2 outputs, which are never in memory. The channels lie in planes of their own
// (ONNX's layout).
//
// By tiles (contract_pooled_tiles.cc), under 5 x 5 taps and where there are several channels:
// Winograd's F(2x2, 5x5), whose tile is the pooling's window.
//
//   lines of the input -> [line][pixel][channel]
//   for every row of tiles, some tiles at a time, in the nearest cache:
//     planes [plane][tile][channel], products [plane][tile][filter], maxima of tiles' outputs
//   [pixel][filter] -> what the pooling stores
//
// By lines (contract_pooled_lines.cc), whose even and odd pixels lie apart: directly, or two lines
// of outputs at a time by F(2, 3) or F(2, 5) down.
#pragma once

#include <memory>

#include "cpu/contract_axes.h"
#include "cpu/finish.h"
#include "cpu/pool_after.h"
#include "cpu/pooled_kernels.h"
#include "cpu/weights.h"
#include "cpu/window_sides.h"

namespace onnx_fusion::cpu {

inline constexpr double kNever = 1e30;

// What both know of the two stages.
struct PooledStages {
  WindowSide down, along;  // steps of 1
  int image = -1, filter = -1, channel = -1;  // letters; -1: one of them
  int64_t images = 1, filters = 1, channels = 1;
  int input = -1;  // tensor
  const Linear* address = nullptr;
  int64_t channel_step = 0;  // of the input
  float fill = 0;
  TensorView weights;
  const Linear* weights_at = nullptr;
  PoolAfter pool;
  std::unique_ptr<Finish> finish;  // is_plain

  int64_t image_at(int64_t image_index) const {
    return address->base + (image < 0 ? 0 : address->coef[image] * image_index);
  }
  float* out(const RunContext& context, int64_t image_index) const {
    return reinterpret_cast<float*>(context.tensors[pool.tensor]) + pool.base +
           pool.image_step * image_index;
  }
  // Of `count` pixels of a line, from tap 0 of output 0 on, those that exist.
  void inside(int64_t count, int64_t* begin, int64_t* end) const;
  // The bias of `count` filters, those that do not exist included, and the limits behind it.
  FinishRows limits(const RunContext& context, int64_t image_index, int64_t count,
                    float* bias) const;
};

class PooledTilesPlan final : public StagePlan {
 public:
  // Vector operations for a maximum of every filter; kNever if the program is strict, or if direct
  // convolution is expected to be faster.
  static double cost(const PooledStages& stages, bool strict);
  static std::unique_ptr<PooledTilesPlan> make(PooledStages stages);
  void run(const RunContext& context) const override;

 private:
  struct Buffers {
    float *lines, *columns, *planes, *products, *pooled, *bias;
  };

  PooledTilesPlan() = default;
  void choose_sizes(const PooledStages& stages);
  bool pack();
  void read_lines(const float* x, int64_t row0, int64_t row1, const Buffers& to) const;
  void run_row(int64_t row, float* pooled, const FinishRows& limits, const Buffers& buffers) const;
  void write(const Buffers& from, int64_t row0, int64_t row1, float* out) const;

  PooledStages stages_;
  const PooledTileKernels* kernels_ = nullptr;
  int64_t room_ = 8;    // floats of an input pixel
  int64_t pixels_ = 0;  // of a turned line
  int vectors_ = 1;     // of a panel of filters
  int64_t width_ = 1, panels_ = 1;
  int64_t pieces_ = 1;  // of a row of tiles
  int64_t band_ = 1;                // rows of tiles whose lines are turned together
  std::shared_ptr<const PackedWeights> weights_;
};

class PooledLinesPlan final : public StagePlan {
 public:
  // The same; kNever if vectors along the lines would not be full, or if there are channels enough
  // for contract_winograd.h.
  static double cost(const PooledStages& stages, bool strict);
  static std::unique_ptr<PooledLinesPlan> make(PooledStages stages, bool strict);
  void run(const RunContext& context) const override;

 private:
  PooledLinesPlan() = default;
  void choose_sizes(const PooledStages& stages, bool strict);
  bool pack();
  void read_lines(const float* x, int64_t row0, int64_t row1, float* to) const;

  PooledStages stages_;
  const PooledLineKernels* kernels_ = nullptr;
  bool planes_ = false;
  void (*row_)(const PooledLine& row, int filters) = nullptr;
  double operations_ = 0;  // for a vector of maxima of every filter
  int64_t groups_ = 1;  // of filters
  int64_t pixels_ = 0;  // of a line
  int64_t half_ = 0;    // floats for its even ones
  int64_t used_ = 0;    // of them, in whole vectors
  int64_t lanes_ = 0;   // of the vectors of a row of maxima
  int64_t band_ = 1;    // rows of maxima whose lines are split together
  std::shared_ptr<const PackedWeights> weights_;
};

// What runs `stage` and the next one, a pooling, if they are of a kind that has such a plan.
std::unique_ptr<StagePlan> plan_pooled(const BoundProgram& bound, size_t stage,
                                       const TensorView* constants, size_t count);

}  // namespace onnx_fusion::cpu
