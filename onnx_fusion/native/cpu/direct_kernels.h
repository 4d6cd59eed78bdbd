// What convolution in place needs of an ISA.
#pragma once

#include <cstdint>

#include "cpu/contract_kernels.h"

namespace onnx_fusion::cpu {

// Convolution in place: weights are [k][output channel of the tile].
struct DirectTile {
  const float* base;
  const WindowVector* vectors;
  const uint16_t* masks;  // [vector][place]: the lanes inside the input
  int64_t places;
  const uint16_t* place;  // per k; null if every lane that exists is inside
  const int64_t* inner;   // per k
  int64_t depth;
  const float* weights;
  int step;    // 1 or 2
  float fill;  // of what is outside
};

// The same with vectors along the output channels: an input element serves all of them.
struct ChannelTile {
  const float* base;
  const int64_t* outer;  // per pixel
  const int64_t* inner;  // per k
  int64_t depth;
  const float* weights;  // [k][vector of channels]
};

struct DirectKernels {
  int rows, unit;  // most output channels of a tile; tiles have a multiple of `unit`, 2 at least
  // out[r * ld + vector.column + lane] for `rows` channels and vectors begin to end, in order; up
  // to a vector more is written.
  void (*run)(const DirectTile& tile, int rows, int64_t begin, int64_t end, float* out, int64_t ld);
  int vectors;  // most vectors of channels at once
  // out[(pixel - begin) * ld + channel] for `vectors` whole vectors of channels.
  void (*channels)(const ChannelTile& tile, int vectors, int64_t begin, int64_t end, float* out,
                   int64_t ld);
};

// The ISA's in use.
const DirectKernels& direct_kernels();

}  // namespace onnx_fusion::cpu
