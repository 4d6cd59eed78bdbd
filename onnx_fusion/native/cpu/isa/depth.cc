// Depthwise convolution with vectors along the channels: a tile's outputs stay in registers while
// each input vector under them serves all it belongs to.
#include "cpu/depth_kernels.h"

#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// The widest window after which SiLU is faster in registers than as a pass over the tile.
constexpr int kEarly = kRegisters > 16 && kLanes > 4 ? 3 : 0;

// The widest window of which a line's weights have registers beside two rows of four outputs.
constexpr int kPaired = (kRegisters - 2 * 4 - 3) / 2;

// Whether two rows of seven outputs have registers beside the weights.
template <int S>
constexpr bool kWide = S > 1 && S * S + 2 * 7 + 2 < kRegisters;

template <int S, int R, int P>
inline __attribute__((always_inline)) void finish(const DepthTile& tile, int64_t c, float* out,
                                                  Floats (&sum)[R][P]) {
  const auto each = [&](const auto& end) {
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < P; ++i) {
        store(out + r * tile.out_row + i * tile.out_pixel + c, end(sum[r][i]));
      }
    }
  };
  const Floats low = broadcast(tile.low), high = broadcast(tile.high);
  if (tile.end == DepthEnd::clamp) return each([&](Floats x) { return clamp(x, low, high); });
  if (S <= kEarly && tile.end == DepthEnd::silu) return each([](Floats x) { return v_silu(x); });
  const Floats scale = broadcast(tile.scale), shift = broadcast(tile.shift);
  const auto gate = [&](Floats x) { return clamp(x * scale + shift, low, high); };
  if (tile.end == DepthEnd::gated) return each([&](Floats x) { return x * gate(x); });
  each(gate);
}

// How the positions under a tile are found.
enum class Reads { inside, edges, pointers };

template <int S, int Step, int R, int P, Reads From>
inline __attribute__((always_inline)) void block(const DepthTile& tile, const float* base,
                                                 int64_t c, float* out) {
  constexpr int columns = Step * (P - 1) + S, lines = Step * (R - 1) + S;
  // Whether the weights of all lines have registers, or those that a line meets.
  constexpr bool kHeld = R > 1 && S * S + R * P + 2 < kRegisters;
  constexpr bool kLineHeld = !kHeld && R * S + R * P + 2 < kRegisters;
  Floats sum[R][P], held[S][S];
  const Floats bias = load(tile.bias + c);
  const float* const weights = tile.weights + c;
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) sum[r][i] = bias;
  }
  if (kHeld) {
#pragma GCC unroll 8
    for (int t = 0; t < S; ++t) {
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) held[t][s] = load(weights + (t * S + s) * tile.weight_step);
    }
  }
  const auto add_line = [&](int y, const float* at, const float* const* in, const float* w) {
    Floats near[R][S];
#pragma GCC unroll 2
    for (int r = 0; r < R && kLineHeld; ++r) {
      const int t = y - Step * r;
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) {
        if (R == 1 || (t >= 0 && t < S)) near[r][s] = load(w + (t * S + s) * tile.weight_step);
      }
    }
#pragma GCC unroll 32
    for (int j = 0; j < columns; ++j) {
      if (From == Reads::edges && j < S && j < tile.left) continue;
      if (From == Reads::edges && j + S > columns && j >= tile.right) continue;
      const Floats x = load((From == Reads::pointers ? in[j] : at + j * tile.column) + c);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        const int t = y - Step * r;
        if (R > 1 && (t < 0 || t >= S)) continue;
#pragma GCC unroll 8
        for (int i = 0; i < P; ++i) {
          const int s = j - Step * i;
          if (s < 0 || s >= S) continue;
          sum[r][i] += x * (kHeld       ? held[t][s]
                            : kLineHeld ? near[r][s]
                                        : load(w + (t * S + s) * tile.weight_step));
        }
      }
    }
  };
  if (R == 1) {
    const float* at = base + tile.first * tile.line;
    const float* w = weights + tile.first * S * tile.weight_step;
    const float* const* in = tile.in + tile.first * columns;
    for (int y = tile.first; y < tile.last; ++y, at += tile.line, in += columns) {
      add_line(0, at, in, w);
      w += S * tile.weight_step;
    }
  } else {
#pragma GCC unroll 16
    for (int y = 0; y < lines; ++y) {
      if (From != Reads::inside && (y < tile.first || y >= tile.last)) continue;
      add_line(y, base + y * tile.line, tile.in, weights);
    }
  }
  finish<S>(tile, c, out, sum);
}

// The last vectors overlap those before.
template <int S, int Step, int R, int P, Reads From>
void run(const DepthTile& given) {
  const DepthTile tile = given;  // which no store may change
  const int64_t last = tile.channels - kLanes;
  const float* base = tile.base;
  float* out = tile.out;
  for (int64_t k = 0; k < tile.tiles; ++k) {
    for (int64_t c = 0;; c = c + kLanes < last ? c + kLanes : last) {
      block<S, Step, R, P, From>(tile, base, c, out);
      if (c == last) break;
    }
    base += tile.apart;
    out += P * tile.out_pixel;
  }
}

using Run = DepthKernels::Run;

template <int S, int Step, int R, int P, Reads From>
constexpr Run choose() {
  if constexpr (R > 1 && (S == 1 || (P == 7 && !kWide<S>))) return nullptr;
  else return run<S, Step, R, P, From>;
}

#define SHAPE(S, Step, R, P) \
  {choose<S, Step, R, P, Reads::inside>(), choose<S, Step, R, P, Reads::edges>()}
#define STEP(S, Step)                                                                         \
  {                                                                                           \
    SHAPE(S, Step, 2, 4), SHAPE(S, Step, 1, 4), SHAPE(S, Step, 1, 7), SHAPE(S, Step, 2, 7), { \
      run<S, Step, 1, 1, Reads::inside>, run<S, Step, 1, 1, Reads::pointers>                  \
    }                                                                                         \
  }
#define WIDTH(S) \
  { STEP(S, 1), STEP(S, 2) }

}  // namespace

extern const DepthKernels depth_kernels;
const DepthKernels depth_kernels = {
    kLanes,
    kEarly,
    kWide<3> ? 3 : 0,
    kPaired,
    {{STEP(1, 1), STEP(1, 1)}, WIDTH(3), WIDTH(5), WIDTH(7)},
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
