// What convolution in groups of few channels needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// Neighbouring outputs of a row, a vector or two of channels. Lines hold all that the windows see.
struct GroupTile {
  const float* const* lines;  // under the taps that count
  int64_t pixel;              // from one column of a line to the next
  int count;                  // of lines
  int64_t depth;              // channels summed
  const float* weights;       // [line][channel][tap][lane]
  float* out;
  int64_t out_pixel;
};

inline constexpr int kGroupTaps = 3;   // of a window along a line
inline constexpr int kGroupTiles = 5;  // numbers of outputs at once

// How the lanes of a vector find their inputs.
enum GroupKind : int {
  kPairs,   // groups of 2 channels side by side in one vector, which is spread over each group
  kFours,   // of 4
  kEights,  // of 8
  kAlone,   // a vector belongs to one group, whose channels are broadcast
  kTwo,     // two vectors do
  kGroupKinds
};

struct GroupKernels {
  int lanes;
  // By kind: numbers of outputs at once, the largest first; 0 ends them, and none is a kind that
  // does not exist.
  int tiles[kGroupKinds][kGroupTiles];
  using Run = void (*)(const GroupTile& tile);
  Run run[kGroupKinds][2][kGroupTiles];  // by the window's step - 1
  // `count` pixels of `floats`, `step` apart, side by side.
  void (*copy)(const float* from, int64_t step, int64_t count, int64_t floats, float* to);
};

// The ISA's in use.
const GroupKernels& group_kernels();

}  // namespace onnx_fusion::cpu
