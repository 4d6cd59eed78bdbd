#include "cpu/window_sides.h"

#include <algorithm>

namespace onnx_fusion::cpu {

int find_sides(const BoundStage& stage, const BoundMap& map, LetterSet taps, WindowSide* sides) {
  int count = 0;
  LetterSet seen = 0;
  for (const BoundIndex& dim : map.dims) {
    WindowSide side;
    side.base = dim.form.base;
    side.extent = dim.extent;
    side.stride = dim.stride;
    side.guarded = dim.guarded;
    bool plain = true;
    for (int l = 0; l < kMaxLetters; ++l) {
      const int64_t coef = dim.form.coef[l];
      if (coef == 0 || stage.extents[l] == 1) continue;
      const bool tap = taps >> l & 1;
      int& letter = tap ? side.tap : side.letter;
      plain = plain && letter < 0 && coef > 0 && map.address.coef[l] == coef * dim.stride;
      letter = l;
      (tap ? side.reach : side.step) = coef;
      (tap ? side.taps : side.outputs) = stage.extents[l];
    }
    if (side.tap < 0 && !dim.guarded) continue;  // not a side
    if (!plain || count == kMostSides) return 0;
    if (side.tap >= 0) seen |= static_cast<LetterSet>(1u << side.tap);
    sides[count++] = side;
  }
  for (int l = 0; l < kMaxLetters; ++l) {
    if ((taps >> l & 1) && stage.extents[l] != 1 && !(seen >> l & 1)) return 0;
  }
  std::stable_sort(sides, sides + count,
                   [](const WindowSide& a, const WindowSide& b) { return a.stride > b.stride; });
  return count;
}

}  // namespace onnx_fusion::cpu
