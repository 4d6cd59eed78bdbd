// Where the sums of a register tile go, and what becomes of them on the way.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/finish.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/sums.h"
#include "cpu/isa/tile.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {

extern const FinishPasses finish_passes;

namespace {

[[maybe_unused]] const FinishRows kNoFinish{};  // to make one takes longer than a short tile

template <typename Vector>
inline Vector load_part(const float* p, int count) {
  if constexpr (std::is_same_v<Vector, Floats>) return load_some(p, count);
  float all[sizeof(Vector) / sizeof(float)] = {};
  for (int l = 0; l < count; ++l) all[l] = p[l];
  return load_as<Vector>(all);
}

template <typename Vector>
inline void store_part(float* p, Vector x, int count) {
  if constexpr (std::is_same_v<Vector, Floats>) return store_some(p, x, count);
  std::memcpy(p, &x, static_cast<size_t>(count) * sizeof(float));
}

// What of a FinishRows moves on with the rows.
struct Place {
  float* out;
  const float *residual, *row_bias, *slope;

  void pass(const FinishRows& f, int64_t count) {
    out += count * f.out_ld;
    if (residual != nullptr) residual += count * f.residual_ld;
    if (row_bias != nullptr) row_bias += count * f.row_step;
    if (slope != nullptr) slope += count * f.slope_row;
  }
};

// Stores a tile as `f` says, at `place`; sums that have `begun` hold the bias. Part: some columns
// do not exist. What is `plain` has begun, and neither scale, shift nor gain.
template <bool Part, typename Vector, int R, int N>
inline __attribute__((always_inline)) void put(Sums<Vector, R, N>& sums, const FinishRows& f,
                                               const Place& place, bool begun, bool plain) {
  constexpr int kLength = Sums<Vector, R, N>::kLength;
  const int left = static_cast<int>(f.columns);
  const auto take = [&](const float* p, int column) {
    if (!Part || left >= column + kLength) return load_as<Vector>(p + column);
    return left > column ? load_part<Vector>(p + column, left - column) : Vector{};
  };
  const auto gain = [&] {
    sums.each([&](Vector& sum, int, int column) {
      sum *= take(f.gain, column);
      if (f.gain_bias != nullptr) sum += take(f.gain_bias, column);
    });
  };
  if (!plain) {
    if (f.scale != 1.0f) sums.each([&](Vector& sum, int, int) { sum *= f.scale; });
    if (f.column_bias != nullptr) {
      if (!begun) {
        sums.each([&](Vector& sum, int, int column) { sum += take(f.column_bias, column); });
      }
    } else if (f.row_bias != nullptr) {
      sums.each([&](Vector& sum, int i, int) { sum += place.row_bias[i * f.row_step]; });
    }
    if (f.shift != 0.0f) sums.each([&](Vector& sum, int, int) { sum += f.shift; });
    if (f.gain != nullptr && f.gain_first) gain();
  }
  if (f.residual != nullptr && !f.late) {
    sums.each([&](Vector& sum, int i, int column) {
      sum += take(place.residual + i * f.residual_ld, column);
    });
  }
  if (!plain && f.gain != nullptr && !f.gain_first) gain();
  if (f.clamps) {
    const Vector low = splat<Vector>(f.low), high = splat<Vector>(f.high);
    sums.each([&](Vector& sum, int, int) { sum = clamp(sum, low, high); });
  }
  if (f.activation == Activation::gate) {
    const Vector low = splat<Vector>(f.p[2]), high = splat<Vector>(f.p[3]);
    sums.each([&](Vector& sum, int, int) { sum *= clamp(sum * f.p[0] + f.p[1], low, high); });
  }
  if (!plain && f.scaled && f.activation <= Activation::gate) {
    sums.each([&](Vector& sum, int, int) { sum = sum * f.after[0] + f.after[1]; });
  }
  sums.each([&](Vector& sum, int i, int column) {
    float* to = place.out + i * f.out_ld + column;
    if (!Part || left >= column + kLength) {
      store_as(to, sum);
    } else if (left > column) {
      store_part(to, sum, left - column);
    }
  });
}

template <typename Vector, int R, int N>
__attribute__((noinline)) void put_part(Sums<Vector, R, N>& sums, const FinishRows& f,
                                        const Place& place) {
  put<true>(sums, f, place, false, false);
}

[[maybe_unused]] void activate(const FinishRows& f, const Place& place, int rows) {
  FinishRows some = f;
  some.rows = rows;
  some.out = place.out;
  some.residual = place.residual;
  some.row_bias = place.row_bias;
  some.slope = place.slope;
  finish_passes.activate(some);
}

// As `put`, and on to the next tile.
template <typename Vector, int R, int N>
inline __attribute__((always_inline)) void finish(Sums<Vector, R, N>& sums, const FinishRows& f,
                                                  Place& place, bool begun, bool plain) {
  if (f.columns == Sums<Vector, R, N>::kColumns) {
    put<false>(sums, f, place, begun, plain);
  } else {
    Sums<Vector, R, N> all;  // or the sums themselves would live in memory
    sums.each([&](Vector& sum, int i, int at) { all.rows[i][at / all.kLength] = sum; });
    put_part(all, f, place);
  }
  if (kActivates && f.again()) activate(f, place, R);
  place.pass(f, R);
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
