// What depthwise convolution on channels-last images needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

inline constexpr int kMostDepthTaps = 128;  // of a window that kernels of a width of their own run

// What becomes of a sum of taps and bias: clamped; clamp(sum * scale + shift); that times the sum;
// SiLU.
enum class DepthEnd : int32_t { clamp, gate, gated, silu };

// A few neighbouring outputs, all channels, and as many more tiles beside it as there are. Lines
// and columns are those of the input under a tile: of a window of any width, output i sees column
// step * i + reach * s at tap s.
struct DepthTile {
  const float* base;  // the first column of the first line, which may be outside
  int64_t line, column;  // from one to the next
  const float* const* in;  // of a single output: [line][column], whatever is outside replaced
  int32_t first, last;  // lines that count
  int64_t left, right;  // columns that count, at edges: less than a window is missing on a side
  int64_t tiles, apart;  // from the base of one to the next
  const float* weights;  // of each vector of channels, weight_step apart: [line][tap][lane]
  int64_t weight_step, channels;
  // Any width: lines and taps of the window; columns from a tile to the next, for which left and
  // right are those of the first and may lie outside; what counts outside, unless it adds nothing.
  int32_t lines, taps;
  int64_t step, reach, moved;
  float fill;
  bool skips;
  const float* bias;
  float scale, shift, low, high;
  DepthEnd end;
  bool scaled;  // after `end`: * after[0] + after[1]
  float after[2];
  float* out;
  int64_t out_row, out_pixel;
};

enum DepthShape : int {
  kTwoByFour,  // two rows of four outputs
  kFour,  // one row of four
  kSeven,
  kTwoBySeven,
  kOne,
  kDepthShapes
};

constexpr int64_t pixels_of(DepthShape shape) {
  return shape == kSeven || shape == kTwoBySeven ? 7 : shape == kOne ? 1 : 4;
}

constexpr int64_t rows_of(DepthShape shape) {
  return shape == kTwoByFour || shape == kTwoBySeven ? 2 : 1;
}

struct DepthKernels {
  int lanes;  // floats in a vector
  int early;  // the widest window that DepthEnd::silu may follow
  int wide;  // the widest window of which there are tiles of two by seven
  int paired;  // and that of which tiles of two by four have registers for a line's weights
  // By the window's width / 2 (widths are 1, 3, 5, 7), its step - 1 (0 for width 1), the shape, and
  // whether something may be outside: then one output has pointers, and more leave out what adds
  // nothing. Two rows inside take all lines. `channels` is at least a vector.
  using Run = void (*)(const DepthTile& tile);
  Run run[4][2][kDepthShapes][2];
  // Windows of any width, by the step, 0 if it (or reach) is another than 1 or 2, for one, four and
  // seven outputs of a row.
  Run any[3][3];
};

// The widest that the instruction set in use can run on so many channels; null if there are fewer
// than the narrowest vector has.
const DepthKernels* depth_kernels(int64_t channels);

}  // namespace onnx_fusion::cpu
