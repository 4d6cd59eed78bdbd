// What a contraction with few columns needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

inline constexpr int kMostNarrow = 8;        // columns
inline constexpr int kMostNarrowRows = 8;    // of a tile

// Rows are read where they lie, k in runs; weights are [run][vector of k][column][lane], with zeros
// behind a run's end.
struct NarrowTile {
  const float* const* rows;
  const int64_t* offsets;  // per run, from a row's beginning
  const int64_t* lengths;
  int runs;
  const float* weights;
  float* out;  // [row][column]; up to a vector more is written
};

struct NarrowKernels {
  int columns;  // most
  int rows[kMostNarrow + 1];  // of a tile, by columns
  void (*tile)(int columns, const NarrowTile& tile);
};

// The ISA's in use.
const NarrowKernels& narrow_kernels();

}  // namespace onnx_fusion::cpu
