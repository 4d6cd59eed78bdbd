// What depthwise convolution on channels-last images needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// What becomes of a sum of taps and bias: clamped; clamp(sum * scale + shift); that times the sum; SiLU.
enum class DepthEnd : int32_t { clamp, gate, gated, silu };

// A few neighbouring outputs, all channels. Lines and columns are those of the input under them.
struct DepthTile {
  const float* base;       // the first column of the first line, if all of them are inside
  int64_t line, column;    // from one to the next
  const float* const* in;  // else [line][column], whatever is outside replaced
  int32_t first, last;     // lines that count; tiles of two rows without pointers take all
  const float* weights;    // [tap], weight_step apart
  int64_t weight_step, channels;
  const float* bias;
  float scale, shift, low, high;
  DepthEnd end;
  float* out;
  int64_t out_row, out_pixel;
};

enum DepthShape : int {
  kTwoByFour,  // two rows of four outputs
  kFour,       // one row of four
  kSeven,
  kOne,
  kDepthShapes
};

struct DepthKernels {
  int lanes;  // floats in a vector
  int early;  // the widest window that DepthEnd::silu may follow
  // By the window's width / 2 (widths are 1, 3, 5, 7), its step - 1 (0 for width 1), the shape, and
  // whether pointers are used. `channels` is at least a vector.
  using Run = void (*)(const DepthTile& tile);
  Run run[4][2][kDepthShapes][2];
};

// The widest that the instruction set in use can run on so many channels; null if there are fewer
// than the narrowest vector has.
const DepthKernels* depth_kernels(int64_t channels);

}  // namespace onnx_fusion::cpu
