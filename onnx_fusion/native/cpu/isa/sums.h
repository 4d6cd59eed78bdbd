// The accumulators of a register tile.
#pragma once

#include <cstdint>

#include "cpu/isa/lanes.h"
#include "cpu/isa/product.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kLineFloats = 16;

template <typename Vector>
inline Vector load_as(const float* p) {
  typedef Vector Loose __attribute__((aligned(4), may_alias));
  return *reinterpret_cast<const Loose*>(p);
}

template <typename Vector>
inline void store_as(float* p, Vector x) {
  typedef Vector Loose __attribute__((aligned(4), may_alias));
  *reinterpret_cast<Loose*>(p) = x;
}

template <typename Vector>
inline Vector splat(float x) {
  return x - Vector{};
}

// Accumulators: R rows of N vectors.
template <typename Vector, int R, int N>
struct Sums {
  static constexpr int kLength = sizeof(Vector) / sizeof(float), kColumns = N * kLength;
  Vector rows[R][N];

  // body(sums, row, column) for all of them.
  template <typename Body>
  inline __attribute__((always_inline)) void each(const Body& body) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
      for (int v = 0; v < N; ++v) body(rows[i][v], i, v * kLength);
    }
  }

  // Adds row i's number, of(i), times the columns' numbers at b.
  template <typename Of>
  inline __attribute__((always_inline)) void multiply(const float* b, const Of& of) {
    Vector x[N];
#pragma GCC unroll 16
    for (int v = 0; v < N; ++v) x[v] = load_as<Vector>(b + v * kLength);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      add_product(rows[i], of(i), x);
    }
  }
};

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
