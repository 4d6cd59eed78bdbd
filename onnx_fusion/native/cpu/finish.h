// The epilogue that most contractions have, in one pass over the accumulators:
//
//   x = (result * scale + bias + shift + residual) * gain + gain_bias
//   (activation(x, clamped to [low, high]) * scale + shift) * late_gain + late_bias
//
// with scalar scales and shifts, a bias along rows or columns, a residual of the result's shape,
// gains and their biases along columns, each of which may be missing; the residual may also be
// added last, or after the gain. Everything else goes through the tile machine (tile.cc).
#pragma once

#include <memory>
#include <vector>

#include "cpu/tile.h"

namespace onnx_fusion::cpu {

enum class Activation : int32_t {
  none,
  gate,       // x * clamp(x * p0 + p1, p2, p3): HardSwish
  ramp,       // clamp(x * p0 + p1, p2, p3): HardSigmoid
  leaky,      // x < 0 ? x * p0 : x
  prelu,      // x < 0 ? x * slope : x
  sigmoid,
  tanh,
  silu,       // x * sigmoid(x)
  mish,       // x * tanh(log(1 + exp(x)))
  gelu,       // x * p0 * (erf(x * p1) + 1)
  gelu_tanh,  // x * p0 * (tanh((x + x * x * x * p1) * p2) + 1)
};

struct FinishRows {
  const float* accumulators;
  int64_t ld;
  int64_t rows, columns;
  float scale, shift;
  bool clamps;
  float low, high;
  const float* row_bias;  // row_step apart; null if there is none
  int64_t row_step;
  const float* column_bias;  // contiguous; null if there is none
  const float* residual;     // null if there is none
  int64_t residual_ld;
  const float* gain;       // along columns, contiguous; null if there is none
  const float* gain_bias;  // the same; null without a gain
  bool gain_first;         // before the residual
  const float* late_gain;  // as gain, after the activation
  const float* late_bias;
  float* out;
  int64_t out_ld;
  const float* slope;  // of prelu: slope_row apart, and slope_column (0 or 1)
  int64_t slope_row, slope_column;
  Activation activation;
  bool late;    // the residual comes after the activation
  bool scaled;  // after the activation: * after[0] + after[1]
  float p[4], after[2];

  // A register tile leaves the activation to a pass over what it stored.
  bool again() const { return activation > Activation::gate || late || late_gain != nullptr; }
  // Leaves out the first columns; how many remain, and the accumulators, are the caller's.
  void skip(int64_t count) {
    for (const float** along :
         {&column_bias, &residual, &gain, &gain_bias, &late_gain, &late_bias}) {
      if (*along != nullptr) *along += count;
    }
    if (slope != nullptr) slope += count * slope_column;
    out += count;
  }
};

struct FinishPasses {
  void (*all)(const FinishRows& rows);       // from the accumulators to out
  void (*activate)(const FinishRows& rows);  // what `again` says, in place
};

// The ISA's in use.
const FinishPasses& finish_passes();

class Finish {
 public:
  // Null if the stage's epilogue is another one, or lies in too small pieces.
  static std::unique_ptr<Finish> make(const BoundStage& stage, int dot, const Axis& rows,
                                      const Axis& columns);
  // As Epilogue::run.
  void run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1, int64_t c0,
           int64_t c1, const float* accumulators, int64_t ld) const;
  // One `rows` serves any rectangle.
  bool whole() const { return whole_; }
  // What `run` passes to the ISA, if it is whole.
  FinishRows rows(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                  int64_t c0, int64_t c1, const float* accumulators, int64_t ld) const;
  bool has_row_bias() const { return row_bias_.tensor >= 0; }
  bool has_gain() const { return gain_.tensor >= 0; }
  // A gain for each column, its bias and a clamp, and nothing else.
  bool is_affine() const {
    return whole_ && has_gain() && column_bias_.tensor < 0 && row_bias_.tensor < 0 &&
           shift_ == 0.0f && residual_.tensor < 0 && late_gain_.tensor < 0 && slope_.tensor < 0 &&
           scale_ == 1.0f && !late_ && !scaled_ && activation_ == Activation::none;
  }
  // Nothing but a bias, along rows or else along columns, a shift and a clamp.
  bool is_plain(bool along_rows) const {
    const Plane& other = along_rows ? column_bias_ : row_bias_;
    return whole_ && other.tensor < 0 && residual_.tensor < 0 && gain_.tensor < 0 &&
           late_gain_.tensor < 0 && slope_.tensor < 0 && scale_ == 1.0f && !late_ && !scaled_ &&
           activation_ == Activation::none;
  }

 private:
  // An operand over the flattened axes: element (row, column) is at base + row * row + column *
  // column within a run of rows and of columns.
  struct Plane {
    int tensor = -1;
    const Linear* address = nullptr;
    int64_t row = 0, column = 0;
  };

  Finish() = default;
  bool flatten(const BoundMap& map, Plane* plane);
  int64_t begin(const Plane& plane, const int64_t* fixed, int64_t row, int64_t column) const;
  void run_piece(FinishRows rows) const;

  const BoundStage* stage_ = nullptr;
  Axis rows_, columns_;
  LetterSet free_ = 0;  // letters fixed per call
  int64_t row_run_ = 1, column_run_ = 1;
  bool whole_ = true;
  Plane out_, row_bias_, column_bias_, residual_, gain_, gain_bias_, late_gain_, late_bias_, slope_;
  bool gain_first_ = false;
  std::vector<Plane> copies_;  // further stores, which lie as the first does
  float scale_ = 1, shift_ = 0, low_ = 0, high_ = 0;
  Activation activation_ = Activation::none;
  bool late_ = false, scaled_ = false;
  float p_[4] = {}, after_[2] = {1, 0};
};

}  // namespace onnx_fusion::cpu
