// Walking boxes of axes, and clipping runs to where a guarded index is inside.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/sizes.h"
#include "program/bind.h"

namespace onnx_fusion::cpu {

// Narrows [lo, hi) to the i for which 0 <= at + i * step < extent.
inline void clip_run(int64_t at, int64_t step, int64_t extent, int64_t* lo, int64_t* hi) {
  if (step == 0) {
    if (at < 0 || at >= extent) *hi = *lo;
    return;
  }
  int64_t first, last;  // [first, last)
  if (step > 0) {
    first = ceil_div(-at, step);
    last = ceil_div(extent - at, step);
  } else {
    first = ceil_div(at - extent + 1, -step);
    last = ceil_div(at + 1, -step);
  }
  *lo = std::min(std::max(*lo, first), *hi);
  *hi = std::max(*lo, std::min(*hi, last));
}

inline bool next_position(int count, const int64_t* size, int64_t* inside) {
  for (int k = count; k-- > 0;) {
    if (++inside[k] < size[k]) return true;
    inside[k] = 0;
  }
  return false;
}

inline int64_t dot_axes(const Linear& form, const int* axis, const int64_t* inside, int count) {
  int64_t sum = 0;
  for (int k = 0; k < count; ++k) sum += form.coef[axis[k]] * inside[k];
  return sum;
}

}  // namespace onnx_fusion::cpu
