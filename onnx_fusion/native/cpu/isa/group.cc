// Convolution in groups of few channels: vectors along the outputs' channels, several groups in one
// where they are small. Each input vector is spread over its groups, a channel at a time, and then
// serves every output of the row whose window sees it.
#include "cpu/group_kernels.h"

#include <algorithm>
#include <cstring>

#include "cpu/isa/lanes.h"
#include "cpu/isa/product.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kTaps = kGroupTaps;
constexpr bool kMany = kRegisters > 16;

// Every lane of a group of G takes the group's channel C.
template <int G, int C>
inline __attribute__((always_inline)) Floats spread(Floats x) {
  Ints from{};
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) from[l] = l / G * G + C;
  return __builtin_shuffle(x, from);
}

template <int Step, int P, int V>
inline __attribute__((always_inline)) void add(Floats x, int j, const Floats (&weights)[kTaps][V],
                                               Floats (&sum)[P][V]) {
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) {
    const int s = j - Step * i;
    if (s < 0 || s >= kTaps) continue;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[i][v] += x * weights[s][v];
  }
}

template <int P, int V>
inline __attribute__((always_inline)) void begin(const GroupTile& tile, Floats (&sum)[P][V]) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const Floats x = (tile.bias != nullptr ? load(tile.bias + v * kLanes) : Floats{}) + tile.shift;
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) sum[i][v] = x;
  }
}

template <int P, int V>
inline __attribute__((always_inline)) void finish(const GroupTile& tile, Floats (&sum)[P][V]) {
  if (tile.clamps) {
    const Floats low = broadcast(tile.low), high = broadcast(tile.high);
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[i][v] = clamp(sum[i][v], low, high);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(tile.out + i * tile.out_pixel + v * kLanes, sum[i][v]);
  }
}

template <int V>
inline __attribute__((always_inline)) void load_taps(const float* from,
                                                     Floats (&weights)[kTaps][V]) {
#pragma GCC unroll 3
  for (int s = 0; s < kTaps; ++s) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) weights[s][v] = load(from + (s * V + v) * kLanes);
  }
}

// Channel C of each group, and those after it.
template <int G, int C, int Step, int P>
inline __attribute__((always_inline)) void add_channels(const float* line, int64_t pixel,
                                                        const float* from, Floats (&sum)[P][1]) {
  if constexpr (C < G) {
    Floats weights[kTaps][1];
    load_taps(from + C * kTaps * kLanes, weights);
#pragma GCC unroll 32
    for (int j = 0; j < Step * (P - 1) + kTaps; ++j) {
      add<Step>(spread<G, C>(load(line + j * pixel)), j, weights, sum);
    }
    add_channels<G, C + 1, Step>(line, pixel, from, sum);
  }
}

template <int G, int Step, int P>
void run_spread(const GroupTile& tile) {
  Floats sum[P][1];
  begin(tile, sum);
  const float* weights = tile.weights;
  for (int r = 0; r < tile.count; ++r, weights += G * kTaps * kLanes) {
    add_channels<G, 0, Step>(tile.lines[r], tile.pixel, weights, sum);
  }
  finish(tile, sum);
}

// With registers for it all taps' weights at once, so that a channel is broadcast for all windows
// that see it; else a tap after the other, which leaves two vectors as many sums as a matrix
// product's tile.
template <int V, int Step, int P>
inline __attribute__((always_inline)) void add_line(const float* line, const float* from,
                                                    const GroupTile& tile, Floats (&sum)[P][V]) {
  constexpr int kRow = kTaps * V * kLanes;
  if constexpr (V == 1 || kMany) {
    for (int64_t c = 0; c < tile.depth; ++c, from += kRow) {
      Floats weights[kTaps][V];
      load_taps(from, weights);
#pragma GCC unroll 32
      for (int j = 0; j < Step * (P - 1) + kTaps; ++j) {
        add<Step>(broadcast(line[j * tile.pixel + c]), j, weights, sum);
      }
    }
    return;
  }
#pragma GCC unroll 1
  for (int s = 0; s < kTaps; ++s, line += tile.pixel, from += V * kLanes) {
    const float* x[P];
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) x[i] = line + i * Step * tile.pixel;
    const float* weights = from;
#pragma GCC unroll 4
    for (int64_t c = 0; c < tile.depth; ++c, weights += kRow) {
      Floats w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = load(weights + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < P; ++i) add_product(sum[i], x[i][c], w);
    }
  }
}

template <int V, int Step, int P>
void run_broadcast(const GroupTile& tile) {
  Floats sum[P][V];
  begin(tile, sum);
  const float* from = tile.weights;
  for (int r = 0; r < tile.count; ++r, from += tile.depth * kTaps * V * kLanes) {
    add_line<V, Step>(tile.lines[r], from, tile, sum);
  }
  finish(tile, sum);
}

// Lines are planes of spread vectors, or of single channels that are broadcast.
template <bool Vectors, int V, int Step, int P>
void run_planes(const GroupTile& tile) {
  constexpr int kColumn = Vectors ? kLanes : 1;
  Floats sum[P][V];
  begin(tile, sum);
  const float* from = tile.weights;
  const int64_t reach = tile.reach * kColumn;
  for (int r = 0; r < tile.count; ++r) {
    const float* plane = tile.lines[r];
    for (int64_t c = 0; c < tile.depth; ++c, plane += tile.plane) {
      const float* x = plane;
      for (int64_t s = 0; s < tile.taps; ++s, x += reach, from += V * kLanes) {
        Floats weights[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) weights[v] = load(from + v * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) {
          const float* at = x + Step * i * kColumn;
          if (!Vectors) {
            add_product(sum[i], *at, weights);
            continue;
          }
          const Floats y = load(at);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[i][v] += y * weights[v];
        }
      }
    }
  }
  finish(tile, sum);
}

template <int N>
void spread_from(const GroupSpread& spread, const float* from, int64_t step, int64_t count,
                 int64_t depth, float* to, int64_t plane) {
  Ints lanes[N], picks[N];
  for (int k = 0; k < N; ++k) {
    std::memcpy(&lanes[k], spread.from[k], sizeof lanes[k]);
    std::memcpy(&picks[k], spread.picks[k], sizeof picks[k]);
  }
  from += spread.first;
  // Channels from which on vectors would leave the pixel.
  const int64_t whole = std::clamp<int64_t>(spread.end - spread.first - N * kLanes + 1, 0, depth);
  const auto join = [&](const Floats(&x)[N]) {
    Floats all = __builtin_shuffle(x[0], lanes[0]);
#pragma GCC unroll 4
    for (int k = 1; k < N; ++k) all = picks[k] != 0 ? __builtin_shuffle(x[k], lanes[k]) : all;
    return all;
  };
  for (int64_t i = 0; i < count; ++i, from += step, to += kLanes) {
    int64_t c = 0;
    for (; c < whole; ++c) {
      Floats x[N];
#pragma GCC unroll 4
      for (int k = 0; k < N; ++k) x[k] = load(from + c + k * kLanes);
      store(to + c * plane, join(x));
    }
    for (; c < depth; ++c) {
      Floats x[N];
#pragma GCC unroll 4
      for (int k = 0; k < N; ++k) {
        const int64_t left = spread.end - spread.first - c - k * kLanes;
        const float* at = from + c + k * kLanes;
        x[k] = left >= kLanes ? load(at)
               : left > 0     ? load_some(at, static_cast<int>(left))
                              : Floats{};
      }
      store(to + c * plane, join(x));
    }
  }
}

void spread(const GroupSpread& spread, const float* from, int64_t step, int64_t count,
            int64_t depth, float* to, int64_t plane) {
  constexpr decltype(&spread_from<1>) kFrom[kMostSpread] = {spread_from<1>, spread_from<2>,
                                                            spread_from<3>, spread_from<4>};
  kFrom[spread.count - 1](spread, from, step, count, depth, to, plane);
}

// Pixels of N vectors.
template <int N>
void copy_vectors(const float* from, int64_t step, int64_t count, float* to) {
#pragma GCC unroll 4
  for (int64_t i = 0; i < count; ++i, from += step, to += N * kLanes) {
    Floats x[N];
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) x[k] = load(from + k * kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) store(to + k * kLanes, x[k]);
  }
}

void copy(const float* from, int64_t step, int64_t count, int64_t floats, float* to) {
  switch (floats % kLanes == 0 ? floats / kLanes : 0) {
    case 1: return copy_vectors<1>(from, step, count, to);
    case 2: return copy_vectors<2>(from, step, count, to);
    case 3: return copy_vectors<3>(from, step, count, to);
    case 4: return copy_vectors<4>(from, step, count, to);
    case 6: return copy_vectors<6>(from, step, count, to);
    case 8: return copy_vectors<8>(from, step, count, to);
    default: break;
  }
  const int64_t whole = floats / kLanes * kLanes;
  for (int64_t i = 0; i < count; ++i, from += step, to += floats) {
    int64_t c = 0;
    for (; c < whole; c += kLanes) store(to + c, load(from + c));
    for (; c < floats; ++c) to[c] = from[c];
  }
}

constexpr int kWide = kMany ? 14 : 10, kNext = kMany ? 7 : 8,
              kLess = kMany ? 4 : 7;  // outputs of one vector
constexpr int kTwos[kGroupTiles] = {kMany ? 8 : 6, kMany ? 7 : 5, kMany ? 2 : 4, kMany ? 1 : 2,
                                    kMany ? 0 : 1};  // of two
constexpr int kThrees[kGroupTiles] = {kMany ? 0 : 4, 3, 2, 1, 0};  // of three

// With planes: of one vector, of one that is broadcast, and of two.
constexpr int kSpreads[kGroupTiles] = {14, kMany ? 12 : 10, 7, 4, 1};
constexpr int kSingles[kGroupTiles] = {kMany ? 14 : 12, 10, 7, 4, 1};
constexpr int kDoubles[kGroupTiles] = {kMany ? 14 : 6, kMany ? 10 : 5, 4, 2, 1};

#define SPREAD(G, Step)                                                                \
  {run_spread<G, Step, kWide>, run_spread<G, Step, kNext>, run_spread<G, Step, kLess>, \
   run_spread<G, Step, 3>, run_spread<G, Step, 1>}
#define SPREADS(G) {SPREAD(G, 1), SPREAD(G, 2)}
#define ALONE(Step)                                                                             \
  {run_broadcast<1, Step, kWide>, run_broadcast<1, Step, kNext>, run_broadcast<1, Step, kLess>, \
   run_broadcast<1, Step, 3>, run_broadcast<1, Step, 1>}
#define TWO(Step)                                                      \
  {run_broadcast<2, Step, kTwos[0]>, run_broadcast<2, Step, kTwos[1]>, \
   run_broadcast<2, Step, kTwos[2]>, run_broadcast<2, Step, kTwos[3]>, run_broadcast<2, Step, 1>}
#define THREE(Step)                                                                 \
  {run_broadcast<3, Step, 4>, run_broadcast<3, Step, 3>, run_broadcast<3, Step, 2>, \
   run_broadcast<3, Step, 1>, nullptr}
#define PLANES(Vectors, V, Step, P)                                        \
  {run_planes<Vectors, V, Step, P[0]>, run_planes<Vectors, V, Step, P[1]>, \
   run_planes<Vectors, V, Step, P[2]>, run_planes<Vectors, V, Step, P[3]>, \
   run_planes<Vectors, V, Step, P[4]>}
#define PLANES_OF(Vectors, V, P) {PLANES(Vectors, V, 1, P), PLANES(Vectors, V, 2, P)}
#define TILES(P) {P[0], P[1], P[2], P[3], P[4]}

}  // namespace

extern const GroupKernels group_kernels;
const GroupKernels group_kernels = {kLanes,
                                    {{kWide, kNext, kLess, 3, 1},
                                     {kLanes > 4 ? kWide : 0, kNext, kLess, 3, 1},
                                     {kLanes > 8 ? kWide : 0, kNext, kLess, 3, 1},
                                     {kWide, kNext, kLess, 3, 1},
                                     TILES(kTwos),
                                     TILES(kThrees),
                                     TILES(kSpreads),
                                     TILES(kSingles),
                                     TILES(kDoubles)},
                                    {SPREADS(2),
#if defined(__AVX2__)
                                     SPREADS(4),
#else
                                     {},
#endif
#if defined(__AVX512F__)
                                     SPREADS(8),
#else
                                     {},
#endif
                                     {ALONE(1), ALONE(2)},
                                     {TWO(1), TWO(2)},
                                     {THREE(1), THREE(2)},
                                     PLANES_OF(true, 1, kSpreads),
                                     PLANES_OF(false, 1, kSingles),
                                     PLANES_OF(false, 2, kDoubles)},
                                    copy,
                                    spread};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
