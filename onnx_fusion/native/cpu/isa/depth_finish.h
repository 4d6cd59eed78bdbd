// Distances under and behind a depthwise tile, and what becomes of its sums.
#pragma once

#include <limits>

#include "cpu/depth_kernels.h"
#include "cpu/isa/once.h"
#include "cpu/isa/product.h"
#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// The widest window after which SiLU is faster in registers than as a pass over the tile.
constexpr int kEarly = kRegisters > 16 && kLanes > 4 ? 3 : 0;

constexpr int64_t kFloat = sizeof(float);

// A number of bytes that the compiler knows nothing of.
inline int64_t hidden(int64_t floats) {
  int64_t bytes = floats * kFloat;
  hide(bytes);
  return bytes;
}

// Distances in bytes. Of a line's columns there are those that no address reaches by scaling
// another: registers for all are too many.
template <int Columns>
struct Distances {
  explicit Distances(const DepthTile& tile)
      : line(hidden(tile.line)),
        row(hidden(tile.out_row)),
        pixel(hidden(tile.out_pixel)),
        weights(hidden(tile.weight_step)) {
#pragma GCC unroll 32
    for (int j = 1; j < Columns; ++j) columns[j] = scale_of(j) > 1 ? 0 : hidden(j * tile.column);
  }

  static constexpr int scale_of(int j) {
    return j % 2 > 0 || j == 16 ? 1 : j % 4 > 0 ? 2 : j % 8 > 0 ? 4 : 8;
  }
  inline __attribute__((always_inline)) Scaled column(const float* line, int j) const {
    return j == 0 ? Scaled{line, 0, 0} : Scaled{line, columns[j / scale_of(j)], scale_of(j)};
  }

  int64_t line, row, pixel, weights;
  int64_t columns[Columns] = {};
};

// What a clamp needs; more is another end.
enum class Limits { none, low, both, more };

Limits limits_of(const DepthTile& tile) {
  if (tile.end != DepthEnd::clamp || tile.scaled) return Limits::more;
  if (tile.high < std::numeric_limits<float>::infinity()) return Limits::both;
  return tile.low > -std::numeric_limits<float>::infinity() ? Limits::low : Limits::none;
}

template <int S, int R, int P, typename Places>
inline __attribute__((always_inline)) void finish(const DepthTile& tile, Limits limits,
                                                  const Places& places, int64_t c, float* out,
                                                  Floats (&sum)[R][P]) {
  const DepthTile* ends = &tile;  // from which the compiler would move loads to before the sums
  hide(ends);
  const auto put = [&](const auto& end) __attribute__((always_inline)) {
    float* row = move(out, c);
    const int64_t pixel = places.pixel;
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      float* to = row;
#pragma GCC unroll 8
      for (int i = 0; i < P; ++i) {
        store(i % 2 == 0 ? to : move(to, pixel), end(sum[r][i]));
        if (i % 2 == 0) continue;
        to = move(to, 2 * pixel);
        hide(to);
      }
      row = move(row, places.row);
      hide(row);
    }
  };
  if (limits == Limits::none) return put([](Floats x) { return x; });
  const Floats low = broadcast(ends->low);
  if (limits == Limits::low) return put([&](Floats x) { return x < low ? low : x; });
  const Floats high = broadcast(ends->high);
  if (limits == Limits::both) return put([&](Floats x) { return clamp(x, low, high); });
  const auto each = [&](const auto& end) __attribute__((always_inline)) {
    if (!ends->scaled) return put(end);
    const Floats by = broadcast(ends->after[0]), more = broadcast(ends->after[1]);
    put([&](Floats x) __attribute__((always_inline)) { return end(x) * by + more; });
  };
  if (ends->end == DepthEnd::clamp) return each([&](Floats x) { return clamp(x, low, high); });
  if (S <= kEarly && ends->end == DepthEnd::silu) return each([](Floats x) { return v_silu(x); });
  const Floats scale = broadcast(ends->scale), shift = broadcast(ends->shift);
  const auto gate = [&](Floats x) { return clamp(x * scale + shift, low, high); };
  if (ends->end == DepthEnd::gated) return each([&](Floats x) { return x * gate(x); });
  each(gate);
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
