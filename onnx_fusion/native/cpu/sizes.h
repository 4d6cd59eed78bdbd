// Whole numbers of units.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

inline int64_t ceil_div(int64_t a, int64_t b) {  // b > 0, for index maps nearly always 1 or 2
  if (b == 1) return a;
  if (b == 2) return (a + 1) >> 1;
  return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

// Of value >= 0.
inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace onnx_fusion::cpu
