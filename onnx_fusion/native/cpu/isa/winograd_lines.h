// One side of Winograd's minimal filtering (Lavin and Gray, 2015): the inputs under some outputs to
// planes, and planes to outputs. Lines that reach over 8 inputs have the points 0, +-1/2, +-1, +-2
// and infinity, sides over 6 have 0, +-sqrt(1/2), +-sqrt(2) and infinity, those over 4 have 0, +-1
// and infinity.
#pragma once

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr float kRoot = 1.41421356237309505f, kHalfRoot = 0.707106781186547524f;

template <class V>
inline void input_line(const V (&x)[8], V (&y)[8]) {
  const V even1 = x[6] - 5.0f * x[4] + 4.0f * x[2], odd1 = x[5] - 5.0f * x[3] + 4.0f * x[1];
  const V even2 = x[6] - 4.25f * x[4] + x[2], odd2 = x[5] - 4.25f * x[3] + x[1];
  const V even3 = x[6] - 1.25f * x[4] + 0.25f * x[2], odd3 = x[5] - 1.25f * x[3] + 0.25f * x[1];
  y[0] = x[0] - x[6] + 5.25f * (x[4] - x[2]);
  y[1] = even1 + 0.5f * odd1;
  y[2] = even1 - 0.5f * odd1;
  y[3] = even2 + odd2;
  y[4] = even2 - odd2;
  y[5] = even3 + 2.0f * odd3;
  y[6] = even3 - 2.0f * odd3;
  y[7] = x[7] - x[1] + 5.25f * (x[3] - x[5]);
}

template <class V>
inline void output_line(const V (&x)[8], V (&y)[4]) {
  const V sum1 = x[1] + x[2], sum2 = x[3] + x[4], sum3 = x[5] + x[6];
  const V less1 = x[1] - x[2], less2 = x[3] - x[4], less3 = x[5] - x[6];
  y[0] = x[0] + sum1 + sum2 + sum3;
  y[1] = 0.5f * less1 + less2 + 2.0f * less3;
  y[2] = 0.25f * sum1 + sum2 + 4.0f * sum3;
  y[3] = x[7] + 0.125f * less1 + less2 + 8.0f * less3;
}

template <class V>
inline void output_line(const V (&x)[8], V (&y)[6]) {
  const V sum1 = x[1] + x[2], sum2 = x[3] + x[4], sum3 = x[5] + x[6];
  const V less1 = x[1] - x[2], less2 = x[3] - x[4], less3 = x[5] - x[6];
  y[0] = x[0] + sum1 + sum2 + sum3;
  y[1] = 0.5f * less1 + less2 + 2.0f * less3;
  y[2] = 0.25f * sum1 + sum2 + 4.0f * sum3;
  y[3] = 0.125f * less1 + less2 + 8.0f * less3;
  y[4] = 0.0625f * sum1 + sum2 + 16.0f * sum3;
  y[5] = x[7] + 0.03125f * less1 + less2 + 32.0f * less3;
}

template <class V>
inline void input_line(const V (&x)[6], V (&y)[6]) {
  const V even1 = x[4] - 2.0f * x[2], even2 = x[4] - 0.5f * x[2];
  const V odd1 = x[3] - 2.0f * x[1], odd2 = x[3] - 0.5f * x[1];
  y[0] = x[0] - 2.5f * x[2] + x[4];
  y[1] = even1 + kHalfRoot * odd1;
  y[2] = even1 - kHalfRoot * odd1;
  y[3] = even2 + kRoot * odd2;
  y[4] = even2 - kRoot * odd2;
  y[5] = x[1] - 2.5f * x[3] + x[5];
}

template <class V>
inline void output_line(const V (&x)[6], V (&y)[4]) {
  const V sum1 = x[1] + x[2], sum2 = x[3] + x[4];
  const V less1 = x[1] - x[2], less2 = x[3] - x[4];
  y[0] = x[0] + sum1 + sum2;
  y[1] = kHalfRoot * (less1 + 2.0f * less2);
  y[2] = 0.5f * sum1 + 2.0f * sum2;
  y[3] = x[5] + 0.5f * kHalfRoot * (less1 + 8.0f * less2);
}

template <class V>
inline void output_line(const V (&x)[6], V (&y)[2]) {
  y[0] = x[0] + (x[1] + x[2]) + (x[3] + x[4]);
  y[1] = x[5] + kHalfRoot * ((x[1] - x[2]) + 2.0f * (x[3] - x[4]));
}

// What a plane between the first and the last adds to the second of two outputs.
template <int Reach>
constexpr float share_of(int plane) {
  return (plane % 2 == 1 ? 1.0f : -1.0f) * (Reach == 4 ? 1.0f : plane < 3 ? kHalfRoot : kRoot);
}

template <class V>
inline void input_line(const V (&x)[4], V (&y)[4]) {
  y[0] = x[0] - x[2];
  y[1] = x[1] + x[2];
  y[2] = x[2] - x[1];
  y[3] = x[3] - x[1];
}

template <class V>
inline void output_line(const V (&x)[4], V (&y)[2]) {
  y[0] = x[0] + x[1] + x[2];
  y[1] = x[1] - x[2] + x[3];
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
