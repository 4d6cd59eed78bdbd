// The directions in which a window moves over an image: where its taps are for each output.
#pragma once

#include "cpu/tile.h"

namespace onnx_fusion::cpu {

// Tap t of output i is at position step * i + reach * t + base of the dim.
struct WindowSide {
  int letter = -1, tap = -1;  // -1: there is one output, one tap
  int64_t outputs = 1, taps = 1;
  int64_t step = 0, reach = 0, base = 0;
  int64_t extent = 0, stride = 0;  // of the dim
  bool guarded = false;

  // Positions that so many outputs read over; of a crafted window more than an index holds.
  double length(int64_t count) const {
    return static_cast<double>(step) * static_cast<double>(count - 1) +
           static_cast<double>(reach) * static_cast<double>(taps - 1) + 1;
  }

  bool inside(int64_t first, int64_t count, int64_t apart) const {
    return !guarded || (first >= 0 && first + (count - 1) * apart < extent);
  }
};

inline constexpr int kMostSides = 3;

// Sorts the map's letters into the sides of a window with these taps, the last one closest in
// memory. Returns how many there are, or 0 if it is another kind of map: each side must be a dim of
// its own, moved by at most one letter and one tap, forwards.
int find_sides(const BoundStage& stage, const BoundMap& map, LetterSet taps, WindowSide* sides);

}  // namespace onnx_fusion::cpu
