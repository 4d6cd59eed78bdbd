// Register tiles of a contraction, in vector extensions.
//
// Accumulators, one row of columns and a broadcast fit the registers: 8x48 of 32 with AVX-512, 6x16
// or 4x24 of 16 with AVX2, 4x8 of 16 with SSE, 8x12 of 32 with NEON.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/contract_kernels.h"
#include "cpu/finish.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/sums.h"
#include "cpu/isa/tile.h"
#include "cpu/isa/tile_finish.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {

namespace {

constexpr int kStream = 4;

// R rows by N vectors of columns, as often as the call says.
template <TileRows Kind, typename Vector, int R, int N>
void tile(const TileCall& call) {
  using Tile = Sums<Vector, R, N>;
  Tile sums;
  const FinishRows& f = call.finish != nullptr ? *call.finish : kNoFinish;
  Place place{f.out, f.residual, f.row_bias, f.slope};
  const bool whole = f.columns == Tile::kColumns;
  const bool begin = whole && !call.add && f.column_bias != nullptr && f.scale == 1.0f;
  const bool plain = begin && f.shift == 0.0f && f.gain == nullptr && !f.scaled;
  const float* const* rows = call.a;
  const float* const* ahead = call.ahead;
  const float* fetch = call.fetch;
  float* c = call.c;
  int64_t steps = 0;
  for (int piece = 0; piece < call.pieces; ++piece) steps += call.depths[piece] / kFetchStep;
  constexpr bool kSteps = (Kind == TileRows::direct || Kind == TileRows::packed) && R >= 4;
  const bool spreads = kSteps && steps > 1;
  const int rows_to_fetch = call.finish == nullptr ? 0 : R;
  const int rows_per_step = spreads ? static_cast<int>((R + steps - 1) / steps) : R;
  for (int64_t t = 0; t < call.tiles; ++t) {
    // Lines that the tile will write, and the residual's: a few per step, since many at once would
    // hold up the product's own loads.
    int fetched = 0;
    const auto fetch_rows = [&] {
      const int end = fetched + rows_per_step;
      for (; fetched < (end < rows_to_fetch ? end : rows_to_fetch); ++fetched) {
#pragma GCC unroll 16
        for (int v = 0; v < Tile::kColumns; v += kLineFloats) {
          __builtin_prefetch(place.out + fetched * f.out_ld + v);
          if (f.residual == nullptr) continue;
          __builtin_prefetch(place.residual + fetched * f.residual_ld + v);
        }
      }
    };
    if (!spreads) fetch_rows();
    if (begin) {
      sums.each([&](Vector& sum, int, int at) { sum = load_as<Vector>(f.column_bias + at); });
    } else {
      sums.each([&](Vector& sum, int, int) { sum = Vector{}; });
    }
    const float* b = call.b;
    for (int piece = 0; piece < call.pieces; ++piece, rows += R) {
      const float* a[R];
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) a[i] = Kind == TileRows::packed ? rows[0] : rows[i];
      const float* together = rows[0];
      int64_t left = call.depths[piece], at = 0;
      const auto step = [&](int64_t k) {
        sums.multiply(b, [&](int i) -> const float& {
          return Kind == TileRows::packed ? together[i] : a[i][k];
        });
        b += Kind == TileRows::strided ? call.b_step : Tile::kColumns;
        if (Kind == TileRows::packed) together += call.a_step;
      };
      if constexpr (Kind == TileRows::strided) {
        for (; left > 0; --left, at += call.a_step) step(at);
      } else if constexpr (Kind == TileRows::indexed) {
        // With few registers to spare, more at once and the compiler keeps sums in memory.
        constexpr int kSpare = kRegisters - (R * N + N + 1);
        constexpr int kUnroll = kSpare > 3 ? 4 : kSpare > 0 ? 2 : 1;
        for (; left >= kUnroll; left -= kUnroll, at += kUnroll) {
#pragma GCC unroll 4
          for (int u = 0; u < kUnroll; ++u) step(call.offsets[at + u]);
        }
        for (; left > 0; --left, ++at) step(call.offsets[at]);
      } else {
        constexpr int kUnroll = R >= 4 ? kFetchStep : 4;
        // Rows worth fetching lie as far ahead as the first of them: a wrong guess costs a line.
        const bool fetches = kSteps && Kind == TileRows::direct && ahead != nullptr;
        const int64_t far = fetches ? ahead[0] - a[0] : 0;
        for (; left >= kUnroll; left -= kUnroll) {
          if constexpr (kSteps) {
            if (fetched < rows_to_fetch) fetch_rows();
            if (Kind == TileRows::direct && far != 0) {
#pragma GCC unroll 16
              for (int i = 0; i < R; ++i) __builtin_prefetch(a[i] + far);
            }
            for (int i = 0; i < call.fetch_lines; ++i, fetch += kLineFloats) {
              __builtin_prefetch(fetch, 0, 2);  // into the second-level cache
            }
          }
#pragma GCC unroll 16
          for (int u = 0; u < kUnroll; ++u) step(u);
          if constexpr (Kind == TileRows::direct) {
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) a[i] += kUnroll;
          }
        }
        for (; left > 0; --left, ++at) step(at);
      }
    }
    if (call.add) {
      sums.each([&](Vector& sum, int i, int at) { sum += load_as<Vector>(c + i * call.ldc + at); });
    }
    if (call.finish == nullptr) {
      sums.each([&](Vector& sum, int i, int at) { store_as(c + i * call.ldc + at, sum); });
    } else {
      finish(sums, f, place, begin, plain);
    }
    if (c != nullptr) c += R * call.ldc;
    if (ahead != nullptr) ahead += R;
  }
}

using Tile = void (*)(const TileCall&);

template <TileRows Kind, int R, int V>
constexpr Tile choose(bool halved) {
  if constexpr (V > kTileVectors || R > kTileRows[V]) {
    return nullptr;
  } else if constexpr (V <= kHalvedVectors) {
    return halved ? tile<Kind, Half, R, 2 * V - 1> : tile<Kind, Floats, R, V>;
  } else {
    return halved ? nullptr : tile<Kind, Floats, R, V>;
  }
}

#define PAIR(K, R, V) {choose<K, R, V>(false), choose<K, R, V>(true)}
#define ROW(K, R) {PAIR(K, R, 1), PAIR(K, R, 2), PAIR(K, R, 3)}
#define KIND(K)                                                        \
  {ROW(K, 1), ROW(K, 2), ROW(K, 3), ROW(K, 4),  ROW(K, 5),  ROW(K, 6), \
   ROW(K, 7), ROW(K, 8), ROW(K, 9), ROW(K, 10), ROW(K, 11), ROW(K, 12)}
constexpr Tile kTiles[4][kMostTileRows][3][2] = {KIND(TileRows::direct), KIND(TileRows::packed),
                                                 KIND(TileRows::strided), KIND(TileRows::indexed)};
#undef KIND
#undef ROW
#undef PAIR

void run_tile(TileRows kind, int rows, int vectors, const TileCall& call) {
  if (call.apart > 0 && kind == TileRows::direct && run_dense(rows, vectors, call)) return;
  kTiles[static_cast<int>(kind)][rows - 1][vectors - 1][call.halved ? 1 : 0](call);
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
constexpr Stream kStreams[2][kStream][3] = {{{stream<1, 1, 1>, stream<1, 1, 2>, stream<1, 1, 3>},
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

// c += the sum of y[i] * b[i], or the sum alone. So many lines of b at once that what is kept of c
// hardly counts, and no more than a core follows ahead.
template <int K, bool Add>
void spread(const float* const* b, const float* y, int64_t columns, float* c) {
  int64_t j = 0;
  for (; j + kLanes <= columns; j += kLanes) {
    Floats even = Add ? load(c + j) : Floats{}, odd = Floats{};
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) (i % 2 == 0 ? even : odd) += y[i] * load(b[i] + j);
    store(c + j, K > 1 ? even + odd : even);
  }
  for (; j < columns; ++j) {
    float sum = Add ? c[j] : 0;
    for (int i = 0; i < K; ++i) sum += y[i] * b[i][j];
    c[j] = sum;
  }
}

void run_spread(const SpreadCall& call) {
  constexpr int kAtOnce = 8;
  const float* b[kAtOnce];
  float y[kAtOnce];
  bool add = call.add;
  if (call.depth == 0 && !add)
    std::memset(call.c, 0, static_cast<size_t>(call.columns) * sizeof(float));
  for (int64_t p = 0; p < call.depth;) {
    const int some = p + kAtOnce <= call.depth ? kAtOnce : 1;
    for (int i = 0; i < some; ++i, ++p) {
      b[i] = call.b + p * call.b_step;
      y[i] = call.a[p * call.a_step];
    }
    const auto run = some == 1 ? (add ? spread<1, true> : spread<1, false>)
                               : (add ? spread<kAtOnce, true> : spread<kAtOnce, false>);
    run(b, y, call.columns, call.c);
    add = true;
  }
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

void run_plain_tile(int rows, int vectors, int pieces, const int64_t* depths, const float* const* a,
                    int64_t a_step, const float* b, int64_t b_step, float* c, int64_t ldc,
                    bool add) {
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
    kTileVectors,
    kHalvedVectors,
    kActivates,
    {0, 4, 2},
    run_tile,
    run_stream,
    run_spread,
    run_dots,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
