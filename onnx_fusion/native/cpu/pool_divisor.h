// What the sums of a pooling are divided by: a number, or the taps inside the image, which are as
// many as there are in a line of it times as many as there are lines.
#pragma once

#include <vector>

#include "cpu/window_sides.h"

namespace onnx_fusion::cpu {

class PoolDivisor {
 public:
  // No divisor if what follows the reduction on line `reduction` is another thing.
  PoolDivisor() = default;
  PoolDivisor(const BoundProgram& bound, size_t stage, int reduction, const WindowSide& planes,
              const WindowSide& rows, const WindowSide& columns);

  int line() const { return line_; }  // of the quotient; -1 if there is none
  float uniform() const { return uniform_; }  // the divisor of all sums; 0 if they differ
  // The divisors of a row's outputs, and apart() behind each its reciprocal.
  const float* row(int64_t plane, int64_t row) const {
    return lines_.data() + 2 * apart_ * which_[static_cast<size_t>(plane * rows_ + row)];
  }
  int64_t apart() const { return apart_; }

 private:
  int line_ = -1;
  float uniform_ = 0;
  int64_t rows_ = 1, apart_ = 0;
  std::vector<float> lines_;
  std::vector<int32_t> which_;  // of the lines, by plane and row
};

}  // namespace onnx_fusion::cpu
