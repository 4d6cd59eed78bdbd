// What Winograd's convolution needs of an ISA. A tile of size m (2 or 4) is m x m outputs of one
// channel; it has (m + 2) x (m + 2) planes.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// The inputs under one tile: pixel (i, j) at base + i * line + j * pixel, or at
// places[i * (m + 2) + j]; channels are contiguous.
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

// One tile's outputs: clamp(result * scale + bias + residual, low, high).
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
};

struct WinogradKernels {
  int max_vectors;  // of a product
  int rows[5];      // tiles that a register tile of so many vectors holds
  void (*input)(int size, const WinogradInput& tile);
  void (*product)(const WinogradProduct& product);
  void (*output)(int size, const WinogradOutput& tile);
};

// The ISA's in use.
const WinogradKernels& winograd_kernels();

}  // namespace onnx_fusion::cpu
