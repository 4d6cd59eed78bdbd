// What a convolution of few channels needs of an ISA if the maximum over windows of 2 x 2 of its
// outputs follows: by tiles of 2 x 2 outputs under 5 x 5 taps (winograd_kernels.h), or by lines.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// At most so many tiles at once. Buffers have room for all of them (and one more, so that planes of
// products do not meet in the same sets of the cache).
inline constexpr int kPooledTiles = 8;

// Input under neighbouring tiles of a row, to planes.
struct PooledInput {
  const float* lines;  // [line][pixel][channel], a pixel `room` floats
  int64_t line;        // floats between lines
  int tiles;
  int64_t room;    // 8 or 16
  float* columns;  // what is between: [6][2 * kPooledTiles + 4][room]
  float* planes;   // [36][kPooledTiles][room]
};

struct PooledProduct {
  const float* planes;
  int tiles;
  int64_t room, channels;
  const float* weights;  // [plane][channel][filter]
  int vectors;           // of filters
  float* out;            // [36][kPooledTiles + 1][filter]
};

// max(the tile's outputs) + bias, clamped.
struct PooledOutput {
  const float* in;  // as the product's `out`
  int tiles, vectors;
  const float* bias;  // per filter
  float low, high;
  float* out;
  int64_t step;  // floats between tiles
};

struct PooledTileKernels {
  int lanes;        // floats in a vector
  int max_vectors;  // of a product
  int tiles[3];     // most, by vectors
  // out[i * room + c] = x[c * step + i] for `count` pixels, channels in whole vectors of 8.
  void (*turn_in)(const float* x, int64_t step, int64_t channels, int64_t count, int64_t room,
                  float* out);
  void (*input)(const PooledInput& input);
  void (*product)(const PooledProduct& product);
  void (*output)(const PooledOutput& output);
  // out[f * out_step + i] = in[i * step + f]; `step` holds whole vectors.
  void (*turn_out)(const float* in, int64_t step, int64_t pixels, int64_t filters, float* out,
                   int64_t out_step);
};

// A row of maxima: even and odd pixels of the input's lines lie apart, so that the outputs of a
// window are the lanes of four vectors. Two lines of outputs under 3 or 5 taps down are sums of
// products in planes, too (isa/winograd_lines.h), each of which stands for a line.
struct PooledLine {
  const float* lines;     // [channel][line or plane][even, odd][pixel]
  int64_t channel, line;  // floats between them; odd ones are line / 2 behind even ones
  int64_t channels;
  int down, along;       // taps; `down` of them has down + 1 planes
  const float* weights;  // [channel][tap down][tap along][filter]; [plane][channel][along][filter]
  const float* bias;  // per filter
  float low, high;
  int64_t columns;  // maxima; `lines` may be read as if they were whole vectors
  float* out;  // a row's maxima lie together
  int64_t filter_step;
};

struct PooledLineKernels {
  int lanes;
  int rest;  // lanes of a row's last vector, if they are enough
  int filters;  // most at once
  int plane_filters, folded_filters;  // `folded_row` is faster, if it is there (not 0)
  // even[i] = x[2 * i], odd[i] = x[2 * i + 1] of `count` pixels.
  void (*split)(const float* x, int64_t count, float* even, float* odd);
  void (*row)(const PooledLine& row, int filters);  // windows of 3 or 5 along
  // The lines under a row to planes, `count` even and odd pixels of each.
  void (*planes)(const PooledLine& row, int64_t count, float* out);
  void (*plane_row)(const PooledLine& row, int filters);  // `lines` are planes; 3 or 5 down, too
  void (*folded_row)(const PooledLine& row, int filters);
};

// The ISA's in use, or a narrower one's if its vectors hold all filters.
const PooledTileKernels& pooled_tile_kernels(int64_t filters);
// The ISA's in use, or a narrower one's if its vectors hold all columns.
const PooledLineKernels& pooled_line_kernels(int64_t columns);

}  // namespace onnx_fusion::cpu
