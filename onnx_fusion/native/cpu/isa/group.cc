// Convolution in groups of few channels: vectors along the outputs' channels, several groups in one where
// they are small. Each input vector is spread over its groups, a channel at a time, and then serves every
// output of the row whose window sees it.
#include "cpu/group_kernels.h"

#include <cstring>

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kTaps = kGroupTaps;

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
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[i][v] += x * weights[s][v];
  }
}

template <int V>
inline __attribute__((always_inline)) void load_taps(const float* from, Floats (&weights)[kTaps][V]) {
#pragma GCC unroll 3
  for (int s = 0; s < kTaps; ++s) {
#pragma GCC unroll 2
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
  Floats sum[P][1] = {};
  const float* weights = tile.weights;
  for (int r = 0; r < tile.count; ++r, weights += G * kTaps * kLanes) {
    add_channels<G, 0, Step>(tile.lines[r], tile.pixel, weights, sum);
  }
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) store(tile.out + i * tile.out_pixel, sum[i][0]);
}

template <int V, int Step, int P>
void run_broadcast(const GroupTile& tile) {
  Floats sum[P][V] = {};
  const float* from = tile.weights;
  for (int r = 0; r < tile.count; ++r) {
    const float* line = tile.lines[r];
    for (int64_t c = 0; c < tile.depth; ++c, from += kTaps * V * kLanes) {
      Floats weights[kTaps][V];
      load_taps(from, weights);
#pragma GCC unroll 32
      for (int j = 0; j < Step * (P - 1) + kTaps; ++j) {
        add<Step>(broadcast(line[j * tile.pixel + c]), j, weights, sum);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(tile.out + i * tile.out_pixel + v * kLanes, sum[i][v]);
  }
}

void copy(const float* from, int64_t step, int64_t count, int64_t floats, float* to) {
  const int64_t whole = floats / kLanes * kLanes;
  for (int64_t i = 0; i < count; ++i, from += step, to += floats) {
    int64_t c = 0;
    for (; c < whole; c += kLanes) store(to + c, load(from + c));
    for (; c < floats; ++c) to[c] = from[c];
  }
}

constexpr bool kMany = kRegisters > 16;
constexpr int kWide = kMany ? 14 : 10, kNext = kMany ? 7 : 8, kLess = kMany ? 4 : 7;  // outputs of one vector
constexpr int kHalf = kMany ? 8 : 4;                                                  // of two

#define SPREAD(G, Step)                                                                       \
  {                                                                                           \
    run_spread<G, Step, kWide>, run_spread<G, Step, kNext>, run_spread<G, Step, kLess>,       \
        run_spread<G, Step, 3>, run_spread<G, Step, 1>                                        \
  }
#define SPREADS(G) \
  { SPREAD(G, 1), SPREAD(G, 2) }
#define ALONE(Step)                                                                           \
  {                                                                                           \
    run_broadcast<1, Step, kWide>, run_broadcast<1, Step, kNext>,                             \
        run_broadcast<1, Step, kLess>, run_broadcast<1, Step, 3>, run_broadcast<1, Step, 1>   \
  }
#define TWO(Step)                                                                             \
  {                                                                                           \
    run_broadcast<2, Step, kHalf>, run_broadcast<2, Step, kHalf - 1>,                         \
        run_broadcast<2, Step, 2>, run_broadcast<2, Step, 1>, nullptr                         \
  }

}  // namespace

extern const GroupKernels group_kernels;
const GroupKernels group_kernels = {
    kLanes,
    {{kWide, kNext, kLess, 3, 1},
     {kLanes > 4 ? kWide : 0, kNext, kLess, 3, 1},
     {kLanes > 8 ? kWide : 0, kNext, kLess, 3, 1},
     {kWide, kNext, kLess, 3, 1},
     {kRegisters > 16 ? kHalf : 0, kHalf - 1, 2, 1, 0}},
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
     {TWO(1), TWO(2)}},
    copy};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
