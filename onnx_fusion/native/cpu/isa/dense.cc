// Register tiles of rows that lie one behind the other, as the pixels of a channels-last image do.
// With few k what is between two tiles takes the time, since the next one waits behind it in the
// reorder buffer: here it has neither pointers to rows nor the rarer ends.
#include "cpu/contract_kernels.h"
#include "cpu/finish.h"
#include "cpu/isa/sums.h"
#include "cpu/isa/tile.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {

extern const FinishPasses finish_passes;

namespace {

constexpr int kUnroll = 8;             // of k
constexpr int64_t kAheadFloats = 256;  // of rows, at least, that are on their way
constexpr int64_t kMostDepth = 48;     // with more k it is no faster

template <int R, int Columns>
inline __attribute__((always_inline)) void fetch_rows(const float* rows, int64_t ld) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < Columns; v += kLineFloats) __builtin_prefetch(rows + i * ld + v);
  }
}

template <typename Vector, int R, int N>
void dense(const TileCall& call) {
  using Tile = Sums<Vector, R, N>;
  constexpr int kLines = R * kUnroll / kLineFloats > 0 ? R * kUnroll / kLineFloats : 1;
  const FinishRows& f = *call.finish;
  const bool again = kActivates && f.again(), adds = f.residual != nullptr && !f.late;
  const bool gates = f.activation == Activation::gate;
  const int64_t row = call.depths[0], ahead = (kAheadFloats / (R * row) + 1) * R * row;
  const int64_t fetched = call.fetch_lines * (row / kFetchStep);
  const float* fetch = call.fetch;
  const float* const bias = f.column_bias;
  const float* residual = f.residual;
  const int64_t ld = f.out_ld, residual_ld = f.residual_ld;
  const bool clamps = f.clamps;
  float* out = f.out;
  FinishRows some = f;
  some.rows = R;
  const float* a = call.a[0];
  Tile sums;
  for (int64_t t = call.tiles; t > 0; --t) {
    sums.each([&](Vector& sum, int, int at) { sum = load_as<Vector>(bias + at); });
    for (int64_t i = 0; i < fetched; ++i, fetch += kLineFloats) __builtin_prefetch(fetch, 0, 2);
    const float* b = call.b;
    const float* next = a + ahead;
    const float* rows[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      rows[i] = a + i * row;
      // Else each element's distance from the first row is computed ahead, and kept in memory.
      if (kRegisters <= 16) asm("" : "+r"(rows[i]));
    }
    const auto step = [&](int64_t k) {
      sums.multiply(b, [&](int i) { return rows[i][k]; });
      b += Tile::kColumns;
    };
    int64_t k = 0;
    for (; k + kUnroll <= row; k += kUnroll) {
#pragma GCC unroll 16
      for (int i = 0; i < kLines; ++i) __builtin_prefetch(next + i * kLineFloats);
      next += kLines * kLineFloats;
#pragma GCC unroll 16
      for (int u = 0; u < kUnroll; ++u) step(k + u);
    }
    for (; k < row; ++k) step(k);
    a += R * row;
    if (adds) {
      sums.each([&](Vector& sum, int i, int column) {
        sum += load_as<Vector>(residual + i * residual_ld + column);
      });
    }
    if (clamps) {
      const Vector low = splat<Vector>(f.low), high = splat<Vector>(f.high);
      sums.each([&](Vector& sum, int, int) { sum = clamp(sum, low, high); });
    }
    if (gates) {
      const Vector low = splat<Vector>(f.p[2]), high = splat<Vector>(f.p[3]);
      sums.each([&](Vector& sum, int, int) { sum *= clamp(sum * f.p[0] + f.p[1], low, high); });
    }
    sums.each([&](Vector& sum, int i, int column) { store_as(out + i * ld + column, sum); });
    if (again) {
      some.out = out;
      some.residual = residual;
      finish_passes.activate(some);
    }
    out += R * ld;
    fetch_rows<R, Tile::kColumns>(out, ld);
    if (residual == nullptr) continue;
    residual += R * residual_ld;
    fetch_rows<R, Tile::kColumns>(residual, residual_ld);
  }
}

using Dense = void (*)(const TileCall&);

// Tiles are full, or a row less.
template <typename Vector, int R, int N>
constexpr Dense choose(int rows) {
  return rows == R ? dense<Vector, R, N> : rows == R - 1 ? dense<Vector, R - 1, N> : nullptr;
}

template <int V>
Dense choose(int rows, bool halved) {
  if constexpr (V > kTileVectors) {
    return nullptr;
  } else if constexpr (V <= kHalvedVectors) {
    return halved ? choose<Half, kTileRows[V], 2 * V - 1>(rows)
                  : choose<Floats, kTileRows[V], V>(rows);
  } else {
    return halved ? nullptr : choose<Floats, kTileRows[V], V>(rows);
  }
}

}  // namespace

bool run_dense(int rows, int vectors, const TileCall& call) {
  if (call.finish == nullptr || call.add || call.pieces != 1) return false;
  const FinishRows& f = *call.finish;
  const int64_t width = vectors * kLanes - (call.halved ? kLanes / 2 : 0);
  if (call.depths[0] < 1 || call.depths[0] > kMostDepth) return false;
  if (f.columns != width || f.column_bias == nullptr || f.row_bias != nullptr || f.scale != 1.0f ||
      f.shift != 0.0f || f.gain != nullptr || f.late_gain != nullptr || f.scaled ||
      f.slope != nullptr) {
    return false;
  }
  const Dense run = vectors == 1   ? choose<1>(rows, call.halved)
                    : vectors == 2 ? choose<2>(rows, call.halved)
                                   : choose<3>(rows, call.halved);
  if (run == nullptr) return false;
  run(call);
  return true;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
