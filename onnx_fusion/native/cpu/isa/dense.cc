// Register tiles of rows that lie equally far apart, as the pixels of a channels-last image do.
// What is between two tiles, or two groups of k, costs most where two threads share a core, its
// decoder and its reorder buffer: here it has neither pointers to rows nor the rarer ends.
#include <limits>
#include <utility>

#include "cpu/contract_kernels.h"
#include "cpu/finish.h"
#include "cpu/isa/sums.h"
#include "cpu/isa/tile.h"
#include "cpu/isa/tile_finish.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {

namespace {

constexpr int kSteps = 4;               // of k, where fewer than kFetchStep are left
constexpr int64_t kAheadFloats = 256;  // of rows, at least, that are on their way

constexpr float kNoBias[kTileVectors * kLanes] = {};

// at += ld for each row, and each(at, row): sixteen registers do not hold the distance of every row
// from the first.
template <int R, typename Float, typename Each>
inline __attribute__((always_inline)) Float* walk(Float* at, int64_t ld, const Each& each) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i, at += ld) {
    hide(at);
    each(at, i);
  }
  return at;
}

template <int R, int Columns>
inline __attribute__((always_inline)) void fetch_rows(const float* rows, int64_t ld) {
  walk<R>(rows, ld, [](const float* row, int) {
#pragma GCC unroll 16
    for (int v = 0; v < Columns; v += kLineFloats) __builtin_prefetch(row + v);
  });
}

template <typename Step, int... U>
inline __attribute__((always_inline)) void each_step(const Step& step,
                                                     std::integer_sequence<int, U...>) {
  (step(std::integral_constant<int, U>()), ...);
}

enum class End { plain, gated, any };

// The end that most tiles have, apart from what is stored, or each store might change it: a bias
// that begins the sums, what is added to them, a clamp, and if it is gated a gate and what follows.
struct PlainEnd {
  const float *bias, *added;  // null if nothing is added
  float* out;
  int64_t added_ld, out_ld;
  bool clamps, caps, scaled;
  float low, high, p[4], after[2];
};

// Of tiles with so many columns.
End choose_end(const TileCall& call, int64_t columns, PlainEnd* end) {
  if (call.finish == nullptr) {
    *end = {kNoBias,  call.add ? call.c : nullptr,
            call.c,   call.ldc,
            call.ldc, false,
            false,    false,
            0,        0,
            {},       {}};
    return End::plain;
  }
  const FinishRows& f = *call.finish;
  const bool plain = f.columns == columns && !call.add && f.scale == 1.0f &&
                     f.row_bias == nullptr && f.shift == 0.0f && f.gain == nullptr &&
                     !(f.scaled && f.activation < Activation::gate) && !(kActivates && f.again());
  *end = {f.column_bias != nullptr ? f.column_bias : kNoBias,
          f.late ? nullptr : f.residual,
          f.out,
          f.residual_ld,
          f.out_ld,
          f.clamps,
          f.clamps && f.high < std::numeric_limits<float>::infinity(),
          f.scaled,
          f.low,
          f.high,
          {f.p[0], f.p[1], f.p[2], f.p[3]},
          {f.after[0], f.after[1]}};
  return !plain ? End::any : f.activation == Activation::gate ? End::gated : End::plain;
}

template <End Kind, typename Vector, int R, int N>
inline __attribute__((always_inline)) void put_plain(Sums<Vector, R, N>& sums, PlainEnd* end) {
  using Tile = Sums<Vector, R, N>;
  if (end->added != nullptr) {
    end->added = walk<R>(end->added, end->added_ld, [&](const float* row, int i) {
#pragma GCC unroll 16
      for (int v = 0; v < N; ++v) sums.rows[i][v] += load_as<Vector>(row + v * Tile::kLength);
    });
    fetch_rows<R, Tile::kColumns>(end->added, end->added_ld);
  }
  if (end->clamps) {
    const Vector low = splat<Vector>(end->low);
    sums.each([&](Vector& sum, int, int) { sum = sum < low ? low : sum; });
  }
  if (end->caps) {
    const Vector high = splat<Vector>(end->high);
    sums.each([&](Vector& sum, int, int) { sum = sum > high ? high : sum; });
  }
  if constexpr (Kind == End::gated) {
    const Vector low = splat<Vector>(end->p[2]), high = splat<Vector>(end->p[3]);
    sums.each([&](Vector& sum, int, int) { sum *= clamp(sum * end->p[0] + end->p[1], low, high); });
    if (end->scaled) {
      sums.each([&](Vector& sum, int, int) { sum = sum * end->after[0] + end->after[1]; });
    }
  }
  end->out = walk<R>(end->out, end->out_ld, [&](float* row, int i) {
#pragma GCC unroll 16
    for (int v = 0; v < N; ++v) store_as(row + v * Tile::kLength, sums.rows[i][v]);
  });
  fetch_rows<R, Tile::kColumns>(end->out, end->out_ld);
}

template <typename Vector, int R, int N, End Kind>
inline __attribute__((always_inline)) void run_tiles(const TileCall& call, PlainEnd end) {
  using Tile = Sums<Vector, R, N>;
  constexpr bool Plain = Kind != End::any;
  constexpr int kNear = R <= 4 ? 2 : 3;  // rows that one pointer serves
  constexpr int kBases = (R + kNear - 1) / kNear;
  const int64_t depth = call.depths[0], apart = call.apart;
  // Rows ahead: line behind line, or a line of each.
  const bool together = apart == depth;
  const int64_t line_step = together ? kLineFloats : apart;
  const int64_t line_advance = together ? R * kLineFloats : kLineFloats;
  const int64_t tiles_ahead = R * depth > kAheadFloats ? 1 : kAheadFloats / (R * depth) + 1;
  const int64_t ahead = tiles_ahead * R * apart;
  const float* fetch = call.fetch;
  const int fetch_lines = call.fetch_lines;
  const FinishRows& f = call.finish != nullptr ? *call.finish : kNoFinish;
  Place place{f.out, f.residual, f.row_bias, f.slope};
  const bool begins =
      f.columns == Tile::kColumns && !call.add && f.column_bias != nullptr && f.scale == 1.0f;
  const float* const bias = Plain || begins ? end.bias : kNoBias;
  const float* const columns = call.b;
  const float* a = call.a[0];
  float* c = call.c;
  for (int64_t t = call.tiles; t > 0; --t) {
    Tile sums;
    sums.each([&](Vector& sum, int, int at) { sum = load_as<Vector>(bias + at); });
    const float* b = columns;
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
    const auto step = [&](auto at) __attribute__((always_inline)) {
      constexpr int u = decltype(at)::value;
      if constexpr (kHasStep<Vector, R, N>) {
        add_step<u>(sums.rows, b, bases[0], bases[1], further);
      } else {
        sums.multiply(b + u * Tile::kColumns, [&](int i) -> const float& {
          return bases[i / kNear][i % kNear * further + u];
        });
      }
    };
    int64_t left = depth;
    for (; left >= kFetchStep; left -= kFetchStep) {
      for (int i = 0; i < fetch_lines; ++i, fetch += kLineFloats) __builtin_prefetch(fetch, 0, 2);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) __builtin_prefetch(next + i * line_step);
      next += line_advance;
      each_step(step, std::make_integer_sequence<int, kFetchStep>());
      pass(kFetchStep);
    }
    if (left > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < (R + 1) / 2; ++i) __builtin_prefetch(next + i * line_step);
      for (; left >= kSteps; left -= kSteps) {
        each_step(step, std::make_integer_sequence<int, kSteps>());
        pass(kSteps);
      }
      for (; left > 0; --left) {
        each_step(step, std::make_integer_sequence<int, 1>());
        pass(1);
      }
    }
    a += R * apart;
    if constexpr (Plain) {
      put_plain<Kind>(sums, &end);
      continue;
    }
    if (call.add) {
      sums.each([&](Vector& sum, int i, int at) { sum += load_as<Vector>(c + i * call.ldc + at); });
      c += R * call.ldc;
    }
    finish(sums, f, place, begins, false);
    fetch_rows<R, Tile::kColumns>(place.out, f.out_ld);
    if (f.residual != nullptr) fetch_rows<R, Tile::kColumns>(place.residual, f.residual_ld);
  }
}

template <typename Vector, int R, int N>
void dense(const TileCall& call) {
  PlainEnd end;
  const End kind = choose_end(call, Sums<Vector, R, N>::kColumns, &end);
  if (kind == End::plain) return run_tiles<Vector, R, N, End::plain>(call, end);
  if (kind == End::gated) return run_tiles<Vector, R, N, End::gated>(call, end);
  run_tiles<Vector, R, N, End::any>(call, end);
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
