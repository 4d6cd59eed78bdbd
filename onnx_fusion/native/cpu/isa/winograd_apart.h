// One side of Winograd's minimal filtering where outputs are two inputs apart: output i sums inputs
// 2i and 2i + 2 (two taps over the even inputs, by infinity and the points +-1/2 and +-5/4) and
// 2i + 1 (as it is). Planes are infinity, the points, the odd inputs; a tile cut to n outputs has
// infinity, the first n points and n odd inputs. Weights are those of the whole tile: the factors
// z - q of points q that are left out stand in a point's polynomial as their values there.
#pragma once

#include "cpu/isa/lanes.h"
#include "cpu/winograd_kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kApart = 4;  // outputs of a whole tile
constexpr float kNear = static_cast<float>(kApartPoints[0]);
constexpr float kFar = static_cast<float>(kApartPoints[2]);

template <class V>
inline void input_line(const V (&x)[9], V (&y)[9]) {
  constexpr float near = kNear * kNear, far = kFar * kFar;
  const V even1 = x[4] - far * x[0], odd1 = x[6] - far * x[2];
  const V even2 = x[4] - near * x[0], odd2 = x[6] - near * x[2];
  y[0] = x[8] - (near + far) * x[4] + near * far * x[0];
  y[1] = odd1 + kNear * even1;
  y[2] = odd1 - kNear * even1;
  y[3] = odd2 + kFar * even2;
  y[4] = odd2 - kFar * even2;
#pragma GCC unroll 4
  for (int i = 0; i < kApart; ++i) y[5 + i] = x[1 + 2 * i];
}

template <class V>
inline void output_line(const V (&x)[9], V (&y)[4]) {
  const V sum1 = x[1] + x[2], sum2 = x[3] + x[4];
  const V less1 = kNear * (x[1] - x[2]), less2 = kFar * (x[3] - x[4]);
  y[0] = x[5] + sum1 + sum2;
  y[1] = x[6] + less1 + less2;
  y[2] = x[7] + kNear * kNear * sum1 + kFar * kFar * sum2;
  y[3] = x[8] + x[0] + kNear * kNear * less1 + kFar * kFar * less2;
}

// [outputs - 1][plane: infinity, points][even input].
struct ApartFactors {
  float of[kApart][kApart + 1][kApart + 1];
};
constexpr ApartFactors apart_factors() {
  ApartFactors factors{};
  for (int n = 1; n <= kApart; ++n) {
    for (int plane = 0; plane <= n; ++plane) {
      double terms[kApart + 1] = {1};
      for (int q = 1; q <= kApart; ++q) {
        const bool is_left_out = q > n;
        if (q == plane || (plane == 0 && is_left_out)) continue;
        const double at = is_left_out ? kApartPoints[plane - 1] : 0;
        for (int k = kApart; k >= 0; --k) {
          const double below = k > 0 && !is_left_out ? terms[k - 1] : 0;
          terms[k] = below + (at - kApartPoints[q - 1]) * terms[k];
        }
      }
      for (int k = 0; k <= kApart; ++k) {
        factors.of[n - 1][plane][k] = static_cast<float>(terms[k]);
      }
    }
  }
  return factors;
}

// The same in a tile that is cut to n outputs.
template <class V>
inline void input_cut(const V (&x)[9], int n, V (&y)[9]) {
  static constexpr ApartFactors factors = apart_factors();
  for (int plane = 0; plane <= kApart; ++plane) {
    y[plane] = V{};
    for (int k = 0; k <= n && plane <= n; ++k) y[plane] += factors.of[n - 1][plane][k] * x[2 * k];
  }
  for (int i = 0; i < kApart; ++i) y[kApart + 1 + i] = x[2 * i + 1];
}

constexpr bool is_plane(int plane, int outputs, int n) {
  return plane <= n || (plane > outputs && plane <= outputs + n);
}

template <class V>
inline void output_cut(const V (&x)[9], int n, V (&y)[4]) {
  V points[9] = {V{}, x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8]};
  output_line(points, y);
  y[n - 1] += x[0];
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
