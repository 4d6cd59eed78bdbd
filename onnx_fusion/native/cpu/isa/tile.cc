// Register tiles of a contraction, in vector extensions.
//
// Accumulators, one row of columns and a broadcast fit the registers: 8x48 of 32 with AVX-512, 6x16
// or 4x24 of 16 with AVX2, 4x8 of 16 with SSE, 8x12 of 32 with NEON.
#include <cstdint>

#include "cpu/contract_kernels.h"
#include "cpu/finish.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tile.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kStream = 4, kUnroll = kFetchStep;
constexpr int kLineFloats = 16;

template <int R, int V>
inline void scale(Floats (&sum)[R][V], const FinishRows& f, int last) {
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) {
    const auto take = [&](const float* at) {
      at += v * kLanes;
      return v < V - 1 || last == kLanes ? load(at) : load_some(at, last);
    };
    const Floats gain = take(f.gain);
    const Floats bias = f.gain_bias != nullptr ? take(f.gain_bias) : broadcast(-0.0f);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) sum[i][v] = sum[i][v] * gain + bias;
  }
}

template <int R, int V>
inline void finish(Floats (&sum)[R][V], const FinishRows& f) {
  const int last = static_cast<int>(f.columns) - (V - 1) * kLanes;
  const bool whole = last == kLanes;
  if (f.scale != 1.0f) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] *= f.scale;
    }
  }
  if (f.column_bias != nullptr) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const float* at = f.column_bias + v * kLanes;
      const Floats bias = v < V - 1 || whole ? load(at) : load_some(at, last);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i][v] += bias;
    }
  } else if (f.row_bias != nullptr) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const float bias = f.row_bias[i * f.row_step];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] += bias;
    }
  }
  if (f.shift != 0.0f) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] += f.shift;
    }
  }
  if (f.gain != nullptr && f.gain_first) scale(sum, f, last);
  if (f.residual != nullptr && !f.late) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        const float* at = f.residual + i * f.residual_ld + v * kLanes;
        sum[i][v] += v < V - 1 || whole ? load(at) : load_some(at, last);
      }
    }
  }
  if (f.gain != nullptr && !f.gain_first) scale(sum, f, last);
  if (f.clamps) {
    const Floats low = broadcast(f.low), high = broadcast(f.high);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] = clamp(sum[i][v], low, high);
    }
  }
  if (f.activation == Activation::gate) {
    const Floats low = broadcast(f.p[2]), high = broadcast(f.p[3]);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        sum[i][v] *= clamp(sum[i][v] * f.p[0] + f.p[1], low, high);
      }
    }
  }
  if (f.scaled && f.activation <= Activation::gate) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] = sum[i][v] * f.after[0] + f.after[1];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* to = f.out + i * f.out_ld + v * kLanes;
      if (v < V - 1 || whole) {
        store(to, sum[i][v]);
      } else {
        store_some(to, sum[i][v], last);
      }
    }
  }
}

template <TileRows Kind, int R, int V>
void tile(const TileCall& call) {
  Floats sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[i][v] = Floats{};
  }
  const float* b = call.b;
  const float* fetch = call.fetch;
  const float* const* rows = call.a;
  for (int piece = 0; piece < call.pieces; ++piece, rows += R) {
    const float* a[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) a[i] = Kind == TileRows::packed ? rows[0] : rows[i];
    const float* together = rows[0];
    int64_t left = call.depths[piece], at = 0;
    const auto step = [&](int64_t k) {
      Floats x[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) x[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const float y = Kind == TileRows::packed ? together[i] : a[i][k];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sum[i][v] += y * x[v];
      }
      b += Kind == TileRows::strided ? call.b_step : V * kLanes;
      if (Kind == TileRows::packed) together += call.a_step;
    };
    if constexpr (Kind == TileRows::strided) {
      for (; left > 0; --left, at += call.a_step) step(at);
    } else if constexpr (Kind == TileRows::indexed) {
      for (; left >= 4; left -= 4, at += 4) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) step(call.offsets[at + u]);
      }
      for (; left > 0; --left, ++at) step(call.offsets[at]);
    } else {
      for (; left >= kUnroll; left -= kUnroll, at += kUnroll) {
        if (Kind == TileRows::direct && call.ahead != nullptr) {
#pragma GCC unroll 16
          for (int i = 0; i < R; ++i) __builtin_prefetch(call.ahead[i] + at);
        }
        for (int i = 0; i < call.fetch_lines; ++i, fetch += kLineFloats) {
          __builtin_prefetch(fetch, 0, 2);  // into the second-level cache
        }
#pragma GCC unroll 16
        for (int u = 0; u < kUnroll; ++u) step(at + u);
      }
      for (; left > 0; --left, ++at) step(at);
    }
  }
  if (call.add) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] += load(call.c + i * call.ldc + v * kLanes);
    }
  }
  if (call.finish != nullptr) return finish(sum, *call.finish);
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(call.c + i * call.ldc + v * kLanes, sum[i][v]);
  }
}

using Tile = void (*)(const TileCall&);

#define ROW(K, R) {tile<K, R, 1>, tile<K, R, 2>, tile<K, R, 3>}
#define SHORT_ROW(K, R) {tile<K, R, 1>, tile<K, R, 2>, nullptr}
#if defined(__AVX512F__) || defined(__aarch64__)
#define KIND(K) \
  {ROW(K, 1), ROW(K, 2), ROW(K, 3), ROW(K, 4), ROW(K, 5), ROW(K, 6), ROW(K, 7), ROW(K, 8)}
#elif defined(__AVX2__)
#define KIND(K) {ROW(K, 1), ROW(K, 2), ROW(K, 3), ROW(K, 4), SHORT_ROW(K, 5), SHORT_ROW(K, 6)}
#else
#define KIND(K) {SHORT_ROW(K, 1), SHORT_ROW(K, 2), SHORT_ROW(K, 3), SHORT_ROW(K, 4)}
#endif
constexpr Tile kTiles[4][kMostTileRows][3] = {KIND(TileRows::direct), KIND(TileRows::packed),
                                              KIND(TileRows::strided), KIND(TileRows::indexed)};
#undef KIND
#undef SHORT_ROW
#undef ROW

void run_tile(TileRows kind, int rows, int vectors, const TileCall& call) {
  kTiles[static_cast<int>(kind)][rows - 1][vectors - 1](call);
}

// Several panels at once: few rows have too few accumulators to hide the latency of an FMA, and one
// stream of weights too few loads in flight.
template <int R, int P, int V>
void stream(const StreamCall& call) {
  Floats sum[R][P * V];
  const float* panel[P];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < P * V; ++j) sum[i][j] = Floats{};
  }
#pragma GCC unroll 16
  for (int j = 0; j < P; ++j) panel[j] = call.b + j * call.b_panel;
  int64_t at = 0;
  for (int64_t p = 0; p < call.depth; ++p, at += V * kLanes) {
    float y[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) y[i] = call.a[i][p * call.a_step];
#pragma GCC unroll 16
    for (int j = 0; j < P; ++j) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        const Floats x = load(panel[j] + at + v * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) sum[i][j * V + v] += y[i] * x;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < P * V; ++j) {
      float* to = call.c + i * call.ldc + j * kLanes;
      store(to, call.add ? load(to) + sum[i][j] : sum[i][j]);
    }
  }
}

using Stream = void (*)(const StreamCall&);
constexpr Stream kStreams[2][kStream][3] = {
    {{stream<1, 1, 1>, stream<1, 1, 2>, stream<1, 1, 3>},
     {stream<1, 2, 1>, stream<1, 2, 2>, stream<1, 2, 3>},
     {stream<1, 3, 1>, stream<1, 3, 2>, stream<1, 3, 3>},
     {stream<1, 4, 1>, stream<1, 4, 2>, stream<1, 4, 3>}},
    {{stream<2, 1, 1>, stream<2, 1, 2>, stream<2, 1, 3>},
     {stream<2, 2, 1>, stream<2, 2, 2>, stream<2, 2, 3>},
     {nullptr, nullptr, nullptr},
     {nullptr, nullptr, nullptr}}};

void run_stream(int rows, int panels, int vectors, const StreamCall& call) {
  kStreams[rows - 1][panels - 1][vectors - 1](call);
}

template <int C>
void dots(int64_t k, const float* a, const float* const* b, float* c, bool add) {
  Floats sum[C], more[C];
#pragma GCC unroll 4
  for (int j = 0; j < C; ++j) sum[j] = more[j] = Floats{};
  int64_t p = 0;
  for (; p + 2 * kLanes <= k; p += 2 * kLanes) {
    const Floats x = load(a + p), y = load(a + p + kLanes);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      sum[j] += x * load(b[j] + p);
      more[j] += y * load(b[j] + p + kLanes);
    }
  }
  float total[C];
#pragma GCC unroll 4
  for (int j = 0; j < C; ++j) {
    const Floats all = sum[j] + more[j];
    total[j] = 0;
    for (int l = 0; l < kLanes; ++l) total[j] += all[l];
  }
  for (; p < k; ++p) {
    for (int j = 0; j < C; ++j) total[j] += a[p] * b[j][p];
  }
  for (int j = 0; j < C; ++j) c[j] = (add ? c[j] : 0) + total[j];
}

}  // namespace

void run_plain_tile(int rows, int vectors, int pieces, const int64_t* depths,
                    const float* const* a, int64_t a_step, const float* b, int64_t b_step,
                    float* c, int64_t ldc, bool add) {
  const bool packed = a_step == 1 && b_step == vectors * kLanes;
  const TileCall call{pieces, depths, a, nullptr, a_step, b_step, b, c, ldc, add, nullptr};
  run_tile(packed ? TileRows::direct : TileRows::strided, rows, vectors, call);
}

void run_dots(int64_t k, const float* a, const float* const* b, int count, float* c, bool add) {
  int j = 0;
  for (; j + 4 <= count; j += 4) dots<4>(k, a, b + j, c + j, add);
  for (; j < count; ++j) dots<1>(k, a, b + j, c + j, add);
}

extern const TileKernels tile_kernels;
const TileKernels tile_kernels = {
    {kTileRows[0], kTileRows[1], kTileRows[2], kTileRows[3]},
    kTileVectors, {0, 4, 2}, run_tile, run_stream, run_dots,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
