// Register tiles of rows that lie equally far apart, as the pixels of a channels-last image do. What
// is between two tiles, or two groups of k, costs most where two threads share a core, its decoder
// and its reorder buffer: here it has neither pointers to rows nor the rarer ends.
#include "cpu/contract_kernels.h"
#include "cpu/finish.h"
#include "cpu/isa/sums.h"
#include "cpu/isa/tile.h"
#include "cpu/isa/tile_finish.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {

namespace {

constexpr int kSteps = 4;               // of k, where fewer than kFetchStep are left
constexpr int64_t kAheadFloats = 256;  // of rows, at least, that are on their way

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
  constexpr int kNear = R <= 5 ? 1 : R <= 8 ? 2 : 3;  // rows that one pointer serves
  constexpr int kBases = (R + kNear - 1) / kNear;
  const int64_t depth = call.depths[0], apart = call.apart;
  // Rows ahead: line behind line, or a line of each.
  const bool together = apart == depth;
  const int64_t line_step = together ? kLineFloats : apart;
  const int64_t line_advance = together ? R * kLineFloats : kLineFloats;
  const int64_t ahead = (kAheadFloats / (R * depth) + 1) * R * apart;
  const float* fetch = call.fetch;
  const int fetch_lines = call.fetch_lines;
  const bool finishes = call.finish != nullptr;
  const FinishRows& f = finishes ? *call.finish : kNoFinish;
  Place place{f.out, f.residual, f.row_bias, f.slope};
  const bool begins = f.columns == Tile::kColumns && !call.add && f.column_bias != nullptr &&
                      f.scale == 1.0f;
  const bool plain = begins && f.shift == 0.0f && f.gain == nullptr && !f.scaled;
  const int64_t ldc = call.ldc;
  float* c = call.c;
  const float* a = call.a[0];
  Tile sums;
  for (int64_t t = call.tiles; t > 0; --t) {
    if (begins) {
      sums.each([&](Vector& sum, int, int at) { sum = load_as<Vector>(f.column_bias + at); });
    } else {
      sums.each([&](Vector& sum, int, int) { sum = Vector{}; });
    }
    const float* b = call.b;
    const float* next = a + ahead;
    const float* bases[kBases];
#pragma GCC unroll 16
    for (int i = 0; i < kBases; ++i) bases[i] = a + i * kNear * apart;
    int64_t further = apart;
    const auto pass = [&](int steps) {
      b += steps * Tile::kColumns;
      hide(further);
#pragma GCC unroll 16
      for (int i = 0; i < kBases; ++i) {
        const float* base = bases[i] + steps;
        hide(base);
        bases[i] = base;
      }
    };
    const auto step = [&](int u) {
      sums.multiply(b + u * Tile::kColumns, [&](int i) -> const float& {
        return bases[i / kNear][i % kNear * further + u];
      });
    };
    int64_t left = depth;
    for (; left >= kFetchStep; left -= kFetchStep) {
      for (int i = 0; i < fetch_lines; ++i, fetch += kLineFloats) __builtin_prefetch(fetch, 0, 2);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) __builtin_prefetch(next + i * line_step);
      next += line_advance;
#pragma GCC unroll 16
      for (int u = 0; u < kFetchStep; ++u) step(u);
      pass(kFetchStep);
    }
    if (left > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < (R + 1) / 2; ++i) __builtin_prefetch(next + i * line_step);
      for (; left >= kSteps; left -= kSteps) {
#pragma GCC unroll 16
        for (int u = 0; u < kSteps; ++u) step(u);
        pass(kSteps);
      }
      for (; left > 0; --left) {
        step(0);
        pass(1);
      }
    }
    a += R * apart;
    if (call.add) {
      sums.each([&](Vector& sum, int i, int at) { sum += load_as<Vector>(c + i * ldc + at); });
    }
    if (finishes) {
      finish(sums, f, place, begins, plain);
      fetch_rows<R, Tile::kColumns>(place.out, f.out_ld);
      if (f.residual != nullptr) fetch_rows<R, Tile::kColumns>(place.residual, f.residual_ld);
    } else {
      sums.each([&](Vector& sum, int i, int at) { store_as(c + i * ldc + at, sum); });
    }
    c += R * ldc;
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
  if (call.pieces != 1 || call.depths[0] < 1) return false;
  const Dense run = vectors == 1   ? choose<1>(rows, call.halved)
                    : vectors == 2 ? choose<2>(rows, call.halved)
                                   : choose<3>(rows, call.halved);
  if (run == nullptr) return false;
  run(call);
  return true;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
