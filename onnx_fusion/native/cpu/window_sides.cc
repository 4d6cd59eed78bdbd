#include "cpu/window_sides.h"

#include <algorithm>

namespace onnx_fusion::cpu {

bool find_sides(const BoundStage& stage, const BoundMap& map, LetterSet taps, WindowSide* rows,
                WindowSide* columns) {
  WindowSide sides[2];
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
    if (!plain || count == 2) return false;
    if (side.tap >= 0) seen |= static_cast<LetterSet>(1u << side.tap);
    sides[count++] = side;
  }
  for (int l = 0; l < kMaxLetters; ++l) {
    if ((taps >> l & 1) && stage.extents[l] != 1 && !(seen >> l & 1)) return false;
  }
  if (count == 0) return false;
  if (count == 2 && sides[0].stride < sides[1].stride) std::swap(sides[0], sides[1]);
  *columns = sides[count - 1];
  if (count == 2) *rows = sides[0];
  return true;
}

}  // namespace onnx_fusion::cpu
