// What convolution in groups of few channels needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// Neighbouring outputs of a row, a vector or two of channels. Lines hold all that the windows see.
struct GroupTile {
  const float* const* lines;  // under the taps that count
  int64_t pixel;              // from one column of a line to the next, where planes do not tell
  int count;                  // of lines
  int64_t depth;              // channels summed
  int64_t plane;              // of a line, from one channel to the next: the kinds with planes
  int64_t taps, reach;        // of them: taps along a line, and how far one is from the next
  const float* weights;       // [line][channel][tap][lane]
  float* out;
  int64_t out_pixel;
  const float* bias;  // of the lanes; null if there is none
  float shift;
  bool clamps;
  float low, high;
};

inline constexpr int kGroupTaps = 3;   // of a window along a line, in the kinds without planes
inline constexpr int kGroupTiles = 5;  // numbers of outputs at once

// How the lanes of a vector find their inputs.
enum GroupKind : int {
  kPairs,   // groups of 2 channels side by side in one vector, which is spread over each group
  kFours,   // of 4
  kEights,  // of 8
  kAlone,   // a vector belongs to one group, whose channels are broadcast
  kTwo,     // two vectors do
  kThree,   // three do
  kSpread,  // lines are planes, one for each channel summed, of vectors spread already
  kSingle,  // as kAlone, and lines are planes of single channels
  kDouble,  // as kTwo
  kGroupKinds
};

inline constexpr int kMostSpread = 4;  // vectors that one is spread from

// Where the lanes of a vector of outputs find channel 0 of their groups; channel c is c behind it.
struct GroupSpread {
  int count;                        // of vectors behind each other, from `first` on
  int64_t first, end;               // channel of the first lane; where the pixel ends
  int32_t from[kMostSpread][16];    // lane of vector k
  int32_t picks[kMostSpread][16];   // all bits set where it is vector k that has the lane's
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
  // `count` pixels, `step` apart: to[c * plane + i * lanes] is channel c of pixel i, spread.
  void (*spread)(const GroupSpread& spread, const float* from, int64_t step, int64_t count,
                 int64_t depth, float* to, int64_t plane);
};

// The ISA's in use.
const GroupKernels& group_kernels();

}  // namespace onnx_fusion::cpu
