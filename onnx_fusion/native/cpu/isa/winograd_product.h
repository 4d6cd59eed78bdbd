// The products of Winograd's planes: register tiles of rows that lie anywhere, and a panel's
// weights.
#pragma once

#include "cpu/isa/places.h"
#include "cpu/isa/product.h"
#include "cpu/winograd_kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows[] = {0, 8, 8, 8, 6}, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kRows[] = {0, 8, 6, 4, 0}, kVectors = 3;
#else
constexpr int kRows[] = {0, 6, 4, 0, 0}, kVectors = 2;
#endif

constexpr int kSteps = 8;  // of k, between two groups of fetched lines
constexpr int kFetched = 32;  // floats of such a group

// Tiles of the same number of rows, of one plane and one piece of k.
struct ProductTiles {
  const float* in;
  const WinogradRow* rows;
  const float* weights;
  float* out;
  int64_t depth;
  int32_t tiles;
  bool add;
  const float *ahead, *ahead_end;  // the next piece's weights
  int32_t fetches;                 // of kFetched, in kSteps
};

// Returns the end of the weights that were fetched.
template <int R, int V>
const float* product_tiles(const ProductTiles& p) {
  constexpr int64_t kWidth = V * kLanes;
  const WinogradRow* rows = p.rows;
  const float* ahead = p.ahead;
  float* const out = p.out;
  for (int32_t tile = p.tiles; tile > 0; --tile, rows += R) {
    Floats sum[R][V];
    const float* a[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      a[i] = hidden(p.in + rows[i].in);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] = Floats{};
    }
    const float* weights = p.weights;
    int64_t k = 0;
    const auto step = [&](int u) {
      Floats x[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) x[v] = load(weights + (u * V + v) * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) add_product(sum[i], a[i][k + u], x);
    };
    const auto pass = [&](int steps) {
      k += steps;
      weights += steps * kWidth;
      hide(k);
      hide(weights);
    };
    for (const int64_t end = p.depth - kSteps; k <= end;) {
      for (int32_t i = ahead < p.ahead_end ? p.fetches : 0; i > 0; --i, ahead += kFetched) {
        __builtin_prefetch(ahead);
        __builtin_prefetch(ahead + kFetched / 2);
      }
#pragma GCC unroll 16
      for (int u = 0; u < kSteps; ++u) step(u);
      pass(kSteps);
    }
    while (k < p.depth) {
      step(0);
      pass(1);
    }
    if (p.add) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sum[i][v] += load(out + rows[i].out + v * kLanes);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) store(out + rows[i].out + v * kLanes, sum[i][v]);
    }
  }
  return ahead;
}

using ProductKernel = const float* (*)(const ProductTiles&);

// By vectors and rows.
template <int R, int V>
constexpr ProductKernel choose_tile() {
  if constexpr (R <= kRows[V]) {
    return product_tiles<R, V>;
  } else {
    return nullptr;
  }
}

#define ROWS(V)                                                                        \
  {choose_tile<1, V>(), choose_tile<2, V>(), choose_tile<3, V>(), choose_tile<4, V>(), \
   choose_tile<5, V>(), choose_tile<6, V>(), choose_tile<7, V>(), choose_tile<8, V>()}
constexpr ProductKernel kProducts[4][8] = {ROWS(1), ROWS(2), ROWS(3), ROWS(4)};
#undef ROWS

// Sums of some kSummed products are added up: rounding errors grow with the length of a sum, and
// the output transform multiplies them. A piece of the weights then serves all tiles from the
// nearest cache.
constexpr int64_t kSummed = 64;

inline void run_product(const WinogradProduct& p) {
  const int32_t most = kRows[p.vectors], width = p.vectors * kLanes;
  const int64_t pieces = (p.channels + kSummed - 1) / kSummed;
  const ProductKernel* const kernels = kProducts[p.vectors - 1];
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    const int32_t count = p.ends[plane] - p.begins[plane];
    if (count == 0) continue;
    const int32_t groups = (count + most - 1) / most;
    const int32_t least = count / groups, larger = count % groups;
    const int32_t fetches = (width * kSteps + groups * kFetched - 1) / (groups * kFetched);
    const float* weights = p.weights + plane * p.channels * width;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t k0 = p.channels * piece / pieces, k1 = p.channels * (piece + 1) / pieces;
      const float* const ahead = weights + k1 * width;
      ProductTiles tiles{p.in + k0,
                         p.rows + p.begins[plane],
                         weights + k0 * width,
                         p.out,
                         k1 - k0,
                         larger,
                         piece > 0,
                         ahead,
                         ahead + (k1 - k0) * width,
                         fetches};
      if (larger > 0) {
        tiles.ahead = kernels[least](tiles);
        tiles.rows += larger * (least + 1);
      }
      tiles.tiles = groups - larger;
      kernels[least - 1](tiles);
    }
  }
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
