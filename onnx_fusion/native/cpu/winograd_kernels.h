// What Winograd's convolution needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// The outputs of one channel that are computed together, and the planes (as many as inputs) that
// stand for them: square tiles for windows of 3 x 3 and 5 x 5, an oblong of 2 lines of 4 for 3 x 3,
// lines for windows of 3 and 5.
enum class WinogradShape : int {
  square2, square4, line4, line6, square2_of_5, line2_of_5, line4_of_5, oblong
};

struct WinogradSize {
  int lines, pixels;              // outputs
  int reach_lines, reach_pixels;  // inputs
  constexpr int planes() const { return reach_lines * reach_pixels; }
  constexpr int taps() const { return reach_pixels - pixels + 1; }  // along a side of the window
};
constexpr WinogradSize winograd_size(WinogradShape shape) {
  switch (shape) {
    case WinogradShape::square2: return {2, 2, 4, 4};
    case WinogradShape::square4: return {4, 4, 6, 6};
    case WinogradShape::line4: return {1, 4, 1, 6};
    case WinogradShape::line6: return {1, 6, 1, 8};
    case WinogradShape::square2_of_5: return {2, 2, 6, 6};
    case WinogradShape::line4_of_5: return {1, 4, 1, 8};
    case WinogradShape::oblong: return {2, 4, 4, 6};
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
};

// out[tile][plane][filter] = sum over channels of in[tile][plane][channel] *
// weights[plane][channel][filter], for `vectors` vectors of filters.
struct WinogradProduct {
  const float* in;
  int64_t in_tile, in_plane;
  const float* weights;
  int64_t tiles, planes, channels;
  int vectors;
  float* out;
};

// One tile's outputs: x = clamp(result * scale + bias + shift + residual, low, high), or with
// `gate` four numbers p x * clamp(x * p0 + p1, p2, p3); then, with `after`, times after[0] plus
// after[1].
struct WinogradOutput {
  const float* in;  // [plane][filter]
  int vectors;
  int64_t filters;    // that are written
  int lines, pixels;  // that are written
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
