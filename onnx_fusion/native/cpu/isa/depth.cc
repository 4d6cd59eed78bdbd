// Depthwise convolution with vectors along the channels: a tile's outputs stay in registers while
// each input vector under them serves all it belongs to.
#include "cpu/depth_kernels.h"

#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// The widest window after which SiLU is faster in registers than as a pass over the tile.
constexpr int kEarly = kRegisters > 16 && kLanes > 4 ? 3 : 0;

// What one line of inputs gives to a row of outputs.
template <int S, int Step, int P, bool Pointers>
inline __attribute__((always_inline)) void add_line(const float* base, int64_t column,
                                                    const float* const* in, int64_t c,
                                                    const float* weights, int64_t weight_step,
                                                    Floats (&sum)[P]) {
  constexpr int columns = Step * (P - 1) + S;
#pragma GCC unroll 32
  for (int j = 0; j < columns; ++j) {
    const float* p = (Pointers ? in[j] : base + j * column) + c;
    const Floats x = load(p);
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
      const int s = j - Step * i;
      if (s >= 0 && s < S) sum[i] += x * load(weights + s * weight_step + c);
    }
  }
}

template <int S, int P>
inline __attribute__((always_inline)) void finish(const DepthTile& tile, int64_t c, float* out,
                                                  const Floats (&sum)[P]) {
  const Floats low = broadcast(tile.low), high = broadcast(tile.high);
  const Floats scale = broadcast(tile.scale), shift = broadcast(tile.shift);
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) {
    Floats x = sum[i];
    if (tile.end == DepthEnd::clamp) {
      x = clamp(x, low, high);
    } else if (S <= kEarly && tile.end == DepthEnd::silu) {
      x = v_silu(x);
    } else {
      const Floats gate = clamp(x * scale + shift, low, high);
      x = tile.end == DepthEnd::gated ? x * gate : gate;
    }
    store(out + i * tile.out_pixel + c, x);
  }
}

template <int S, int Step, int R, int P, bool Pointers>
inline __attribute__((always_inline)) void block(const DepthTile& tile, int64_t c) {
  constexpr int columns = Step * (P - 1) + S;
  Floats sum[R][P];
  const Floats bias = load(tile.bias + c);
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) sum[r][i] = bias;
  }
  if (R == 1) {
    const float* base = tile.base + tile.first * tile.line;
    const float* weights = tile.weights + tile.first * S * tile.weight_step;
    const float* const* in = tile.in + tile.first * columns;
    for (int y = tile.first; y < tile.last; ++y) {
      add_line<S, Step, P, Pointers>(base, tile.column, in, c, weights, tile.weight_step,
                                        sum[0]);
      base += tile.line;
      in += columns;
      weights += S * tile.weight_step;
    }
  } else {
#pragma GCC unroll 16
    for (int y = 0; y < Step * (R - 1) + S; ++y) {
      if (Pointers && (y < tile.first || y >= tile.last)) continue;
      const float* base = tile.base + y * tile.line;
      const float* const* in = tile.in + y * columns;
#pragma GCC unroll 32
      for (int j = 0; j < columns; ++j) {
        const Floats x = load((Pointers ? in[j] : base + j * tile.column) + c);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          const int t = y - Step * r;
          if (t < 0 || t >= S) continue;
#pragma GCC unroll 8
          for (int i = 0; i < P; ++i) {
            const int s = j - Step * i;
            if (s < 0 || s >= S) continue;
            sum[r][i] += x * load(tile.weights + (t * S + s) * tile.weight_step + c);
          }
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) finish<S, P>(tile, c, tile.out + r * tile.out_row, sum[r]);
}

// The last vectors overlap those before.
template <int S, int Step, int R, int P, bool Pointers>
void run(const DepthTile& tile) {
  const int64_t last = tile.channels - kLanes;
  for (int64_t c = 0;; c = c + kLanes < last ? c + kLanes : last) {
    block<S, Step, R, P, Pointers>(tile, c);
    if (c == last) return;
  }
}

#define SHAPE(S, Step, R, P) \
  { run<S, Step, R, P, false>, run<S, Step, R, P, true> }
#define STEP(S, Step)                                                                       \
  {                                                                                         \
    SHAPE(S, Step, 2, 4), SHAPE(S, Step, 1, 4), SHAPE(S, Step, 1, 7), SHAPE(S, Step, 1, 1)  \
  }
#define WIDTH(S) \
  { STEP(S, 1), STEP(S, 2) }

}  // namespace

extern const DepthKernels depth_kernels;
const DepthKernels depth_kernels = {
    kLanes, kEarly, {{STEP(1, 1), STEP(1, 1)}, WIDTH(3), WIDTH(5), WIDTH(7)}};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
