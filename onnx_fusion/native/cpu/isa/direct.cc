// Convolution that reads its input in place: a tile of output channels by a few vectors of pixels.
#include <cstdint>

#include "cpu/direct_kernels.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/product.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Accumulators, inputs and a broadcast fit the registers: 8x3 of 32, 4x3 of 16, 4x2 of SSE's 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDirectRows = 8, kDirectUnit = 2, kDirectVectors = 3;
#elif defined(__AVX2__)
constexpr int kDirectRows = 4, kDirectUnit = 1, kDirectVectors = 3;
#else
constexpr int kDirectRows = 4, kDirectUnit = 1, kDirectVectors = 2;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kChannelPixels = 10, kChannelVectors = 2;
#else
constexpr int kChannelPixels = 6, kChannelVectors = 2;
#endif

template <int Step, bool Whole, bool Guarded, int R, int V>
void direct_tile(const DirectTile& t, int64_t first, float* out, int64_t ld) {
  Floats sum[R][V];
  const float* at[V];
  const uint16_t* masks[V];
  Mask exists[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    at[v] = t.base + t.vectors[first + v].offset;
    masks[v] = t.masks + (first + v) * t.places;
    exists[v] = mask_of((1u << t.vectors[first + v].lanes) - 1u);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r][v] = Floats{};
  }
  const Floats fill = broadcast(t.fill);
  const float* w = t.weights;
  for (int64_t k = 0; k < t.depth; ++k, w += R) {
    const int64_t shift = t.inner[k];
    Floats x[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const float* p = at[v] + shift;
      if (Whole) {
        x[v] = Step == 1 ? load(p) : load_even_all(p);
      } else {
        const Mask mask = Guarded ? mask_of(masks[v][t.place[k]]) : exists[v];
        x[v] = Step == 1 ? load_where(p, mask, fill) : load_even(p, mask, fill);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) add_product(sum[r], w[r], x);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(out + r * ld + t.vectors[first + v].column, sum[r][v]);
  }
}

template <int Step, int R, int V>
void direct_step(const DirectTile& t, bool whole, int64_t first, float* out, int64_t ld) {
  if (whole) return direct_tile<Step, true, false, R, V>(t, first, out, ld);
  if (t.place == nullptr) return direct_tile<Step, false, false, R, V>(t, first, out, ld);
  direct_tile<Step, false, true, R, V>(t, first, out, ld);
}

template <int Step, int R>
void direct_vectors(const DirectTile& t, int64_t begin, int64_t end, float* out, int64_t ld) {
  for (int64_t v = begin; v < end;) {
    int64_t next = v + 1;
    bool whole = t.vectors[v].whole != 0;
    for (; next < end && next < v + kDirectVectors; ++next) {
      whole = whole && t.vectors[next].whole != 0;
    }
    switch (next - v) {
      case 1: direct_step<Step, R, 1>(t, whole, v, out, ld); break;
      case 2: direct_step<Step, R, 2>(t, whole, v, out, ld); break;
      default: direct_step<Step, R, kDirectVectors>(t, whole, v, out, ld); break;
    }
    v = next;
  }
}

template <int R>
void direct_rows(const DirectTile& t, int64_t begin, int64_t end, float* out, int64_t ld) {
  if (t.step == 1) {
    direct_vectors<1, R>(t, begin, end, out, ld);
  } else {
    direct_vectors<2, R>(t, begin, end, out, ld);
  }
}

void run_direct(const DirectTile& tile, int rows, int64_t begin, int64_t end, float* out,
                int64_t ld) {
  switch (rows) {
    case 2: return direct_rows<2>(tile, begin, end, out, ld);
    case 4: return direct_rows<4>(tile, begin, end, out, ld);
#if defined(__AVX512F__) || defined(__aarch64__)
    case 6: return direct_rows<6>(tile, begin, end, out, ld);
    case 8: return direct_rows<8>(tile, begin, end, out, ld);
#else
    case 3: return direct_rows<3>(tile, begin, end, out, ld);
#endif
    default: break;
  }
}

template <int P, int V>
void channel_tile(const ChannelTile& t, int64_t pixel, float* out, int64_t ld) {
  Floats sum[P][V];
  const float* at[P];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    at[p] = t.base + t.outer[pixel + p];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[p][v] = Floats{};
  }
  const float* w = t.weights;
  for (int64_t k = 0; k < t.depth; ++k, w += V * kLanes) {
    const int64_t shift = t.inner[k];
    Floats y[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) y[v] = load(w + v * kLanes);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const float x = at[p][shift];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[p][v] += x * y[v];
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(out + p * ld + v * kLanes, sum[p][v]);
  }
}

template <int V>
void channel_pixels(const ChannelTile& t, int64_t begin, int64_t end, float* out, int64_t ld) {
  int64_t pixel = begin;
  for (; pixel + kChannelPixels <= end; pixel += kChannelPixels) {
    channel_tile<kChannelPixels, V>(t, pixel, out + (pixel - begin) * ld, ld);
  }
  for (; pixel + 2 <= end; pixel += 2) channel_tile<2, V>(t, pixel, out + (pixel - begin) * ld, ld);
  if (pixel < end) channel_tile<1, V>(t, pixel, out + (pixel - begin) * ld, ld);
}

void run_channels(const ChannelTile& tile, int vectors, int64_t begin, int64_t end, float* out,
                  int64_t ld) {
  switch (vectors) {
    case 1: return channel_pixels<1>(tile, begin, end, out, ld);
    default: return channel_pixels<2>(tile, begin, end, out, ld);
  }
}

}  // namespace

extern const DirectKernels direct_kernels;
const DirectKernels direct_kernels = {kDirectRows, kDirectUnit, run_direct, kChannelVectors,
                                      run_channels};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
