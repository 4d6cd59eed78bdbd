// Depthwise convolution with vectors along the channels: a tile's outputs stay in registers while
// each input vector under them serves all it belongs to.
#include "cpu/depth_kernels.h"

#include <type_traits>

#include "cpu/isa/depth_finish.h"
#include "cpu/isa/once.h"
#include "cpu/isa/product.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// The widest window of which a line's weights have registers beside two rows of four outputs.
constexpr int kPaired = (kRegisters - 2 * 4 - 3) / 2;

// Whether two rows of seven outputs have registers beside the weights.
template <int S>
constexpr bool kWide = S > 1 && S* S + 2 * 7 + 2 < kRegisters;

// How the positions under a tile are found.
enum class Reads { inside, edges, pointers };

template <int S, int Step, int R, int P, Reads From>
inline __attribute__((always_inline)) void block(const DepthTile& tile, Limits limits,
                                                 const Distances<Step*(P - 1) + S>& places,
                                                 const float* base, const float* weights, int64_t c,
                                                 float* out) {
  constexpr int columns = Step * (P - 1) + S, lines = Step * (R - 1) + S;
  // Whether the weights of all lines have registers, or those that a line meets; or three of a row.
  constexpr bool kHeld = R > 1 && S * S + R * P + 2 < kRegisters;
  constexpr bool kLineHeld = !kHeld && R * S + R * P + 1 < kRegisters;
  constexpr bool kUnrolls = S <= 3 || kRegisters > 16;
  constexpr int kLine = S * kLanes;
  constexpr int kApart = S < 5 ? 1 : S / 2;
  const auto stays = [](int s) { return kHeld || kLineHeld || s % kApart == 0; };
  const auto uses = [](int j) {  // in a row
    int count = 0;
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) count += j >= Step * i && j < Step * i + S ? 1 : 0;
    return count;
  };
  Floats sum[R][P], near[S + R][S];
  const Floats bias = load(move(tile.bias, c));
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) sum[r][i] = bias;
  }
  // Weights that are at w, as those of line t.
  const auto keep = [&](int t, const float* w) {
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      if (stays(s)) near[t][s] = load_once(w + s * kLanes);
    }
  };
  if (kHeld) {
#pragma GCC unroll 8
    for (int t = 0; t < S; ++t) keep(t, weights + t * kLine);
  }
  // Of rows [row0, row1), whose weights are those of lines t - Step * row, at w and before.
  const auto add_line = [&](int t, int row0, int row1, const float* at, const float* const* in,
                            const float* w) {
#pragma GCC unroll 2
    for (int first = 0; first < Step; ++first) {
#pragma GCC unroll 32
      for (int j = first; j < columns; j += Step) {
        if (From == Reads::edges && j < S && j < tile.left) continue;
        if (From == Reads::edges && j + S > columns && j >= tile.right) continue;
        const Scaled from =
            From == Reads::pointers ? Scaled{move(in[j], c), 0, 0} : places.column(at, j);
        const bool once = row1 - row0 == 1 && uses(j) == 1 && stays(j < S ? j : j - Step * (P - 1));
        const Floats x = once ? Floats{} : load_once(from);
#pragma GCC unroll 2
        for (int r = row0; r < row1; ++r) {
#pragma GCC unroll 8
          for (int i = 0; i < P; ++i) {
            const int s = j - Step * i;
            if (s < 0 || s >= S) continue;
            const Floats& kept = near[kUnrolls ? t - Step * r : r][s];
            if (once)
              multiply_add(sum[r][i], kept, from);
            else if (stays(s))
              multiply_add(sum[r][i], x, kept);
            else
              multiply_add(sum[r][i], x, w + (s - Step * r * S) * kLanes);
          }
        }
      }
    }
  };
  const auto add_lines = [&](int y0, int y1, int row0, int row1, const float* at) {
    if (From == Reads::edges) {
      y0 = y0 < tile.first ? tile.first : y0;
      y1 = y1 > tile.last ? tile.last : y1;
    }
    at = move(at, y0 * places.line);
    const float* w = weights + y0 * kLine;
#pragma GCC unroll 1
    for (int y = y0; y < y1; ++y, at = move(at, places.line), w += kLine) {
#pragma GCC unroll 2
      for (int r = row0; r < row1; ++r) keep(r, w - Step * r * kLine);
      add_line(0, row0, row1, at, nullptr, w);
    }
  };
  const float* at = move(base, c);
  if (R == 1) {
    at = move(at, tile.first * places.line);
    const float* w = weights + tile.first * kLine;
    const float* const* in = tile.in + tile.first * columns;
    for (int y = tile.first; y < tile.last; ++y) {
      keep(0, w);
      add_line(0, 0, 1, at, in, w);
      at = move(at, places.line);
      in += columns;
      w += kLine;
    }
  } else if (!kUnrolls) {
    add_lines(0, Step, 0, 1, at);
    add_lines(Step, S, 0, 2, at);
    add_lines(S, lines, 1, 2, at);
  } else {
#pragma GCC unroll 16
    for (int y = 0; y < lines; ++y, at = move(at, places.line)) {
      hide(at);
      if (From != Reads::inside && (y < tile.first || y >= tile.last)) continue;
      const int row0 = y >= S ? 1 : 0, row1 = y >= Step ? 2 : 1;
      if (!kHeld) {
        if (row0 == 0) keep(y, weights + y * kLine);
        const bool lost = Step > 1 || From != Reads::inside;  // or the line before loaded them
        if (row1 == 2 && lost) keep(y - Step, weights + (y - Step) * kLine);
      }
      add_line(y, row0, row1, at, nullptr, weights + y * kLine);
    }
  }
  finish<S>(tile, limits, places, c, out, sum);
}

// The last vectors overlap those before.
template <int S, int Step, int R, int P, Reads From>
void run(const DepthTile& given) {
  const DepthTile tile = given;  // which no store may change
  constexpr int64_t kVector = kLanes * kFloat;
  const int64_t last = tile.channels * kFloat - kVector;
  const Distances<Step*(P - 1) + S> places(tile);
  const Limits limits = limits_of(tile);
  const float* base = tile.base;
  float* out = tile.out;
  for (int64_t k = 0; k < tile.tiles; ++k) {
    const float* weights = tile.weights;
    for (int64_t c = 0;; c = c + kVector < last ? c + kVector : last) {
      block<S, Step, R, P, From>(tile, limits, places, base, weights, c, out);
      if (c == last) break;
      weights = move(weights, places.weights);
    }
    base += tile.apart;
    out += P * tile.out_pixel;
  }
}

constexpr int kAny = 99;  // a width that is known at run time

// Sums that each of so many outputs has, so that enough additions are under way.
template <int P>
constexpr int kParts = P == 1   ? 4
                       : P == 4 ? 2
                                : 1;

// W taps of a line, whose first column is at x, with columns [left, right) inside.
template <int Step, int P, int W, bool Whole>
inline __attribute__((always_inline)) void add_taps(const DepthTile& tile, const float* x,
                                                    const float* w, int64_t left, int64_t right,
                                                    Floats (&sum)[P][kParts<P>]) {
  const auto column = [&](int64_t j, const float* at, const auto& add) {
    const bool inside =
        Whole || static_cast<uint64_t>(j - left) < static_cast<uint64_t>(right - left);
    if (inside || !tile.skips) add(inside ? load(at) : broadcast(tile.fill));
  };
  Floats near[W];
#pragma GCC unroll 4
  for (int s = 0; s < W; ++s) near[s] = load(w + s * kLanes);
  if constexpr (Step == 0) {
    static_assert(W == 1, "one tap at a time");
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i, x += tile.step * tile.column) {
      column(tile.step * i, x, [&](Floats v) { sum[i][0] += v * near[0]; });
    }
  } else {
#pragma GCC unroll 16
    for (int j = 0; j < Step * (P - 1) + W; ++j, x += tile.column) {
      if (j % Step >= W) continue;
      column(j, x, [&](Floats v) {
#pragma GCC unroll 8
        for (int i = 0; i < P; ++i) {
          const int s = j - Step * i;
          if (s >= 0 && s < W) sum[i][s % kParts<P>] += v * near[s];
        }
      });
    }
  }
}

// Lines of a tile that is inside; a line's last taps are the last piece.
template <int Step, int P, int Last>
inline __attribute__((always_inline)) void add_inside(const DepthTile& tile, const float* base,
                                                      const float* w, Floats (&sum)[P][kParts<P>]) {
  const float* at = base + tile.first * tile.line;
  w += tile.first * tile.taps * kLanes;
  for (int64_t t = tile.first; t < tile.last; ++t, at += tile.line) {
    const float* x = at;
    for (int s = Last; s < tile.taps; s += 4, x += 4 * tile.column, w += 4 * kLanes) {
      add_taps<Step, P, 4, true>(tile, x, w, 0, 0, sum);
    }
    if constexpr (Last == 5) {
      add_taps<Step, P, 3, true>(tile, x, w, 0, 0, sum);
      add_taps<Step, P, 2, true>(tile, x + 3 * tile.column, w + 3 * kLanes, 0, 0, sum);
    } else {
      add_taps<Step, P, Last, true>(tile, x, w, 0, 0, sum);
    }
    w += Last * kLanes;
  }
}

// Taps [begin, end) of a line.
template <int Step, int P>
inline __attribute__((always_inline)) void add_line(const DepthTile& tile, const float* at,
                                                    const float* w, int64_t left, int64_t right,
                                                    int64_t begin, int64_t end,
                                                    Floats (&sum)[P][kParts<P>]) {
  int64_t s = begin;
  const auto add = [&](auto width) {
    constexpr int W = decltype(width)::value;
    const int64_t first = Step == 0 ? tile.reach * s : s;
    const int64_t last = first + (Step == 0 ? tile.step : Step) * (P - 1) + W;
    const float* x = at + first * tile.column;
    if (W == 4 && first >= left && last <= right) {
      add_taps<Step, P, W, true>(tile, x, w + s * kLanes, 0, 0, sum);
    } else {
      add_taps<Step, P, W, false>(tile, x, w + s * kLanes, left - first, right - first, sum);
    }
    s += W;
  };
  if constexpr (Step > 0) {
    while (end - s == 4 || end - s > 5) add(std::integral_constant<int, 4>());
    if (end - s >= 3) add(std::integral_constant<int, 3>());
    if (end - s >= 2) add(std::integral_constant<int, 2>());
  }
  while (s < end) add(std::integral_constant<int, 1>());
}

// One vector of a tile whose window may be of any width.
template <int Step, int P>
inline __attribute__((always_inline)) void any_block(const DepthTile& tile, const float* base,
                                                     const float* weights, int64_t left,
                                                     int64_t right, int64_t c, float* out) {
  Floats sum[P][kParts<P>] = {};
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) sum[i][0] = load(tile.bias + c);
  const auto close = [&] {
    Floats whole[1][P];
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
      whole[0][i] = sum[i][0];
#pragma GCC unroll 4
      for (int k = 1; k < kParts<P>; ++k) whole[0][i] += sum[i][k];
    }
    finish<kAny>(tile, limits_of(tile), Distances<1>(tile), c * kFloat, out, whole);
  };
  if constexpr (Step > 0 && P > 1) {
    if (tile.skips && tile.taps > 1 && left <= 0 && right >= Step * (P - 1) + tile.taps) {
      switch (tile.taps % 4) {
        case 0: add_inside<Step, P, 4>(tile, base + c, weights, sum); break;
        case 1: add_inside<Step, P, 5>(tile, base + c, weights, sum); break;
        case 2: add_inside<Step, P, 2>(tile, base + c, weights, sum); break;
        default: add_inside<Step, P, 3>(tile, base + c, weights, sum); break;
      }
      return close();
    }
  }
  int64_t begin = 0, end = tile.taps;
  if (tile.skips) {
    const int64_t reach = Step == 0 ? tile.reach : 1, step = Step == 0 ? tile.step : Step;
    while (begin < end && reach * begin + step * (P - 1) < left) ++begin;
    while (end > begin && reach * (end - 1) >= right) --end;
  }
  const int64_t first = tile.skips ? tile.first : 0, last = tile.skips ? tile.last : tile.lines;
  for (int64_t t = first; t < last; ++t) {
    const bool inside = t >= tile.first && t < tile.last;
    add_line<Step, P>(tile, base + t * tile.line + c, weights + t * tile.taps * kLanes,
                      inside ? left : 0, inside ? right : 0, begin, end, sum);
  }
  close();
}

constexpr int64_t kNearBytes = 16384;  // of weights that stay in the L1 cache beside lines

// As many vectors as have their weights near go over all tiles before others do.
template <int Step, int P>
void run_any(const DepthTile& given) {
  const DepthTile tile = given;
  const int64_t last = tile.channels - kLanes, vectors = (tile.channels + kLanes - 1) / kLanes;
  const int64_t bytes = tile.weight_step * static_cast<int64_t>(sizeof(float));
  const int64_t near = bytes < kNearBytes ? kNearBytes / bytes : 1;
  for (int64_t v0 = 0; v0 < vectors; v0 += near) {
    const int64_t v1 = v0 + near < vectors ? v0 + near : vectors;
    for (int64_t k = 0; k < tile.tiles; ++k) {
      for (int64_t v = v0; v < v1; ++v) {
        const int64_t c = v * kLanes < last ? v * kLanes : last;
        any_block<Step, P>(tile, tile.base + k * tile.apart, tile.weights + v * tile.weight_step,
                           tile.left - k * tile.moved, tile.right - k * tile.moved, c,
                           tile.out + k * P * tile.out_pixel);
      }
    }
  }
}

using Run = DepthKernels::Run;

template <int S, int Step, int R, int P, Reads From>
constexpr Run choose() {
  if constexpr (R > 1 && (S == 1 || (P == 7 && !kWide<S>)))
    return nullptr;
  else
    return run<S, Step, R, P, From>;
}

#define SHAPE(S, Step, R, P) \
  {choose<S, Step, R, P, Reads::inside>(), choose<S, Step, R, P, Reads::edges>()}
#define STEP(S, Step)                                                                         \
  {                                                                                           \
    SHAPE(S, Step, 2, 4), SHAPE(S, Step, 1, 4), SHAPE(S, Step, 1, 7), SHAPE(S, Step, 2, 7), { \
      run<S, Step, 1, 1, Reads::inside>, run<S, Step, 1, 1, Reads::pointers>                  \
    }                                                                                         \
  }
#define WIDTH(S) {STEP(S, 1), STEP(S, 2)}

#define ANY(Step) {run_any<Step, 1>, run_any<Step, 4>, run_any<Step, 7>}

}  // namespace

extern const DepthKernels depth_kernels;
const DepthKernels depth_kernels = {
    kLanes,
    kEarly,
    kWide<3> ? 3 : 0,
    kPaired,
    {{STEP(1, 1), STEP(1, 1)}, WIDTH(3), WIDTH(5), WIDTH(7)},
    {ANY(0), ANY(1), ANY(2)},
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
