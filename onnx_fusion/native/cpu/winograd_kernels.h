// What Winograd's convolution needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// The outputs of one channel that are computed together, and the planes (as many as inputs) that
// stand for them: square tiles for windows of 3 x 3 and 5 x 5, an oblong of 2 lines of 4 for 3 x 3,
// lines for windows of 3 and 5; a square of outputs that are two inputs apart for 3 x 3.
enum class WinogradShape : int {
  square2,
  square4,
  line4,
  line6,
  square2_of_5,
  line2_of_5,
  line4_of_5,
  oblong,
  apart4
};

// Where outputs are two inputs apart, the even inputs of a side stand under a window of two taps:
// the planes are infinity and a point for every output. The odd ones are planes as they are, of the
// middle tap, and share its weights. A tile that the border cuts has fewer points, of the same
// weights.
struct WinogradSize {
  int lines, pixels;              // outputs
  int reach_lines, reach_pixels;  // inputs
  int apart = 1;                  // inputs from one output to the next
  constexpr int planes() const { return reach_lines * reach_pixels; }
  constexpr int taps() const { return reach_pixels - (pixels - 1) * apart; }  // along a side
  // Planes of weights of a side, and of both.
  constexpr int weights_of(int outputs, int reach) const {
    return apart == 1 ? reach : outputs + 2;
  }
  constexpr int weight_lines() const { return weights_of(lines, reach_lines); }
  constexpr int weight_pixels() const { return weights_of(pixels, reach_pixels); }
  constexpr int weights() const { return weight_lines() * weight_pixels(); }
};
// The finite ones, in the order in which a cut tile has them.
constexpr double kApartPoints[] = {0.5, -0.5, 1.25, -1.25};
struct WinogradRange {
  int begin, end;
  constexpr int count() const { return end - begin; }
};
// The planes of a side that have these weights, in a tile of `outputs` of which `left` are not cut.
constexpr WinogradRange planes_of_weights(int weights, int outputs, int left, int apart) {
  const bool shared = apart > 1 && weights > outputs, missing = apart > 1 && weights > left;
  return {weights, weights + (shared ? left : missing ? 0 : 1)};
}
// Those of a line that is cut to tiles.
constexpr int64_t planes_of_line(int64_t line, int outputs, int reach, int apart) {
  const int64_t rest = line % outputs;
  return line / outputs * reach + (rest == 0 ? 0 : apart == 1 ? reach : 2 * rest + 1);
}
constexpr WinogradSize winograd_size(WinogradShape shape) {
  switch (shape) {
    case WinogradShape::square2: return {2, 2, 4, 4};
    case WinogradShape::square4: return {4, 4, 6, 6};
    case WinogradShape::line4: return {1, 4, 1, 6};
    case WinogradShape::line6: return {1, 6, 1, 8};
    case WinogradShape::square2_of_5: return {2, 2, 6, 6};
    case WinogradShape::line4_of_5: return {1, 4, 1, 8};
    case WinogradShape::oblong: return {2, 4, 4, 6};
    case WinogradShape::apart4: return {4, 4, 9, 9, 2};
    default: return {1, 2, 1, 6};
  }
}

// The inputs under one tile: pixel (i, j) at base + i * line + j * pixel, or at
// places[i * reach_pixels + j]; channels are contiguous.
struct WinogradInput {
  const float* base;
  int64_t line, pixel;
  const float* const* places;  // null: base
  int64_t channels;
  float* out;  // [plane][channel]; up to a vector more of each plane is written
  int64_t plane;
  int lines, pixels;  // outputs that are not cut
};

// A plane of a tile: where its inputs and its products lie, in floats.
struct WinogradRow {
  int32_t in, out;
};
// row.out[filter] = sum over channels of row.in[channel] * weights[plane][channel][filter], for
// `vectors` vectors of filters; rows[begins[plane]] to rows[ends[plane]] are a plane's.
struct WinogradProduct {
  const float* in;
  const float* weights;
  const WinogradRow* rows;
  const int32_t *begins, *ends;
  int64_t planes, channels;
  int vectors;
  float* out;
};

// The outputs of neighbouring tiles of a line: x = clamp(result * scale + bias + shift + residual,
// low, high), or with `gate` four numbers p x * clamp(x * p0 + p1, p2, p3); then, with `after`,
// times after[0] plus after[1].
struct WinogradOutput {
  const float* in;  // [plane][filter]
  int vectors;
  int64_t filters;    // that are written
  int tiles;
  int lines, pixels;  // of each, that are written
  float* out;
  int64_t line, pixel;
  const float* residual;  // null if there is none
  int64_t residual_line, residual_pixel;
  const float* bias;  // per filter; null if there is none
  float scale, low, high;
  const float* gate;  // null if there is none
  float shift;
  const float* after;  // null if there is none
};

// The taps of a window to planes, for `width` filters (a multiple of the lanes), computed in
// double.
struct WinogradTaps {
  const double *down, *along;  // [reach][tap]; lines have no `down`
  const double* in;      // [tap down][tap along][filter]; of lines [tap along][filter]
  int taps;
  int64_t width;
  float* out;  // [plane][filter], planes so many floats apart
  int64_t plane;
};

struct WinogradKernels {
  int lanes;        // floats in a vector
  int max_vectors;  // of a product
  int rows[5];      // tiles that a register tile of so many vectors holds
  void (*input)(WinogradShape shape, const WinogradInput& tile);
  void (*product)(const WinogradProduct& product);
  void (*output)(WinogradShape shape, const WinogradOutput& tile);
  void (*taps)(WinogradShape shape, const WinogradTaps& taps);
};

// The ISA's in use, or a narrower one's if its vectors hold all filters.
const WinogradKernels& winograd_kernels(int64_t filters);

}  // namespace onnx_fusion::cpu
