// Register tiles of a contraction and the packing of its columns, in vector extensions.
#include <cstdint>
#include <utility>

#include "cpu/contract_kernels.h"
#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Accumulators, one row of columns and a broadcast fit the registers: 8x48 of 32 with AVX-512,
// 4x24 of 16 with AVX2, 4x8 of 16 with SSE, 8x12 of 32 with NEON.
#if defined(__AVX512F__)
constexpr int kRows[] = {0, 8, 8, 8}, kVectors = 3, kStream = 4;
#elif defined(__AVX2__)
constexpr int kRows[] = {0, 6, 6, 4}, kVectors = 3, kStream = 4;
#elif defined(__aarch64__)
constexpr int kRows[] = {0, 8, 8, 8}, kVectors = 3, kStream = 4;
#else
constexpr int kRows[] = {0, 4, 4, 4}, kVectors = 2, kStream = 4;
#endif
constexpr int kMostRows = 8;

template <int R, int V>
void tile(int64_t k, const float* const* a_rows, int64_t a_step, const float* b, int64_t b_step,
          float* c, int64_t ldc, bool add) {
  Floats sum[R][V];
  const float* a[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    a[i] = a_rows[i];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[i][v] = Floats{};
  }
  int64_t at = 0;
  for (int64_t p = 0; p < k; ++p) {
    Floats x[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) x[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const float y = a[i][at];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] += y * x[v];
    }
    b += b_step;
    at += a_step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* to = c + i * ldc + v * kLanes;
      store(to, add ? load(to) + sum[i][v] : sum[i][v]);
    }
  }
}

using Tile = void (*)(int64_t, const float* const*, int64_t, const float*, int64_t, float*, int64_t,
                      bool);

constexpr Tile kTiles[kMostRows][3] = {
#if defined(__AVX512F__) || defined(__aarch64__)
    {tile<1, 1>, tile<1, 2>, tile<1, 3>}, {tile<2, 1>, tile<2, 2>, tile<2, 3>},
    {tile<3, 1>, tile<3, 2>, tile<3, 3>}, {tile<4, 1>, tile<4, 2>, tile<4, 3>},
    {tile<5, 1>, tile<5, 2>, tile<5, 3>}, {tile<6, 1>, tile<6, 2>, tile<6, 3>},
    {tile<7, 1>, tile<7, 2>, tile<7, 3>}, {tile<8, 1>, tile<8, 2>, tile<8, 3>},
#elif defined(__AVX2__)
    {tile<1, 1>, tile<1, 2>, tile<1, 3>}, {tile<2, 1>, tile<2, 2>, tile<2, 3>},
    {tile<3, 1>, tile<3, 2>, tile<3, 3>}, {tile<4, 1>, tile<4, 2>, tile<4, 3>},
    {tile<5, 1>, tile<5, 2>, nullptr},    {tile<6, 1>, tile<6, 2>, nullptr},
#else
    {tile<1, 1>, tile<1, 2>, nullptr},    {tile<2, 1>, tile<2, 2>, nullptr},
    {tile<3, 1>, tile<3, 2>, nullptr},    {tile<4, 1>, tile<4, 2>, nullptr},
#endif
};

void run_tile(int rows, int vectors, int64_t k, const float* const* a, int64_t a_step,
              const float* b, int64_t b_step, float* c, int64_t ldc, bool add) {
  kTiles[rows - 1][vectors - 1](k, a, a_step, b, b_step, c, ldc, add);
}

// Several panels at once: one row alone has too few accumulators to hide the latency of an FMA, and
// one stream of weights too few loads in flight.
template <int P, int V>
void stream(int64_t k, const float* a, int64_t a_step, const float* b, int64_t b_panel, float* c,
            bool add) {
  Floats sum[P * V];
  const float* panel[P];
#pragma GCC unroll 16
  for (int j = 0; j < P * V; ++j) sum[j] = Floats{};
#pragma GCC unroll 16
  for (int j = 0; j < P; ++j) panel[j] = b + j * b_panel;
  int64_t at = 0;
  for (int64_t p = 0; p < k; ++p) {
    const Floats y = broadcast(a[p * a_step]);
#pragma GCC unroll 16
    for (int j = 0; j < P; ++j) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[j * V + v] += y * load(panel[j] + at + v * kLanes);
    }
    at += V * kLanes;
  }
#pragma GCC unroll 16
  for (int j = 0; j < P * V; ++j) {
    float* to = c + j * kLanes;
    store(to, add ? load(to) + sum[j] : sum[j]);
  }
}

void run_stream(int panels, int vectors, int64_t k, const float* a, int64_t a_step, const float* b,
                int64_t b_panel, float* c, bool add) {
  switch (panels * 4 + vectors) {
    case 5: return stream<1, 1>(k, a, a_step, b, b_panel, c, add);
    case 6: return stream<1, 2>(k, a, a_step, b, b_panel, c, add);
    case 7: return stream<1, 3>(k, a, a_step, b, b_panel, c, add);
    case 9: return stream<2, 1>(k, a, a_step, b, b_panel, c, add);
    case 10: return stream<2, 2>(k, a, a_step, b, b_panel, c, add);
    case 11: return stream<2, 3>(k, a, a_step, b, b_panel, c, add);
    case 13: return stream<3, 1>(k, a, a_step, b, b_panel, c, add);
    case 14: return stream<3, 2>(k, a, a_step, b, b_panel, c, add);
    case 15: return stream<3, 3>(k, a, a_step, b, b_panel, c, add);
    case 17: return stream<4, 1>(k, a, a_step, b, b_panel, c, add);
    case 18: return stream<4, 2>(k, a, a_step, b, b_panel, c, add);
    default: return stream<4, 3>(k, a, a_step, b, b_panel, c, add);
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

void run_dots(int64_t k, const float* a, const float* const* b, int count, float* c, bool add) {
  int j = 0;
  for (; j + 4 <= count; j += 4) dots<4>(k, a, b + j, c + j, add);
  for (; j < count; ++j) dots<1>(k, a, b + j, c + j, add);
}

// VL x VL elements, rows `step` apart, to columns: out[l * out_step + r] = rows[r][l].
void transpose_block(const float* const* rows, int count, float* out, int64_t out_step) {
  Floats block[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) block[r] = r < count ? load(rows[r]) : Floats{};
  transpose(block);
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) store(out + r * out_step, block[r]);
}

void pack_along_k(const ColumnPack& pack, int64_t column, int lanes, int64_t k0, int64_t k1,
                  float* out, int64_t width) {
  const float* rows[kLanes];
  for (int l = 0; l < lanes; ++l) rows[l] = pack.base + pack.outer[column + l] + k0;
  int64_t k = k0;
  for (; k + kLanes <= k1; k += kLanes) {
    transpose_block(rows, lanes, out + (k - k0) * width, width);
    for (int l = 0; l < lanes; ++l) rows[l] += kLanes;
  }
  for (; k < k1; ++k) {
    float* to = out + (k - k0) * width;
    for (int l = 0; l < kLanes; ++l) to[l] = l < lanes ? *rows[l]++ : 0.0f;
  }
}

template <bool guarded>
void pack_vector(const ColumnPack& pack, const ColumnVector& vector, int64_t column, int64_t k0,
                 int64_t k1, float* out, int64_t width) {
  const ColumnSegment* segments = pack.segments + vector.segment;
  const Floats fill = broadcast(pack.fill);
  for (int64_t k = k0; k < k1; ++k, out += width) {
    const float* base = pack.base + pack.inner[k];
    Mask valid = mask_all();
    if (guarded) {
      for (int g = 0; g < pack.guard_count; ++g) {
        const PackGuard& guard = pack.guards[g];
        valid = mask_and(valid, mask_inside(guard.outer + column, guard.inner[k], guard.extent));
      }
    }
    Floats x = guarded ? fill : Floats{};
    switch (vector.kind) {
      case kOneRun:
        if (!guarded && vector.lanes == kLanes) {
          x = load(base + segments->offset);
        } else {
          x = load_where(base + segments->offset, mask_and(valid, mask_of(segments->mask)), x);
        }
        break;
      case kRuns:
        for (int s = 0; s < vector.segments; ++s) {
          x = load_where(base + segments[s].offset, mask_and(valid, mask_of(segments[s].mask)), x);
        }
        break;
      case kEvenRuns:
        for (int s = 0; s < vector.segments; ++s) {
          x = load_even(base + segments[s].offset, mask_and(valid, mask_of(segments[s].mask)), x);
        }
        break;
      default:
        for (int l = 0; l < vector.lanes; ++l) {
          if (mask_has(valid, l)) x[l] = base[pack.outer[column + l]];
        }
    }
    store(out, x);
  }
}

void pack_columns(const ColumnPack& pack, int64_t column, int vectors, int64_t k0, int64_t k1,
                  float* out) {
  const int64_t width = static_cast<int64_t>(vectors) * kLanes;
  for (int v = 0; v < vectors; ++v) {
    const int64_t at = column + static_cast<int64_t>(v) * kLanes;
    const ColumnVector& vector = pack.vectors[at / kLanes];
    if (pack.along_k) {
      pack_along_k(pack, at, vector.lanes, k0, k1, out + v * kLanes, width);
    } else if (pack.guard_count > 0) {
      pack_vector<true>(pack, vector, at, k0, k1, out + v * kLanes, width);
    } else {
      pack_vector<false>(pack, vector, at, k0, k1, out + v * kLanes, width);
    }
  }
}

}  // namespace

extern const GemmKernels gemm_kernels;
const GemmKernels gemm_kernels = {
    kLanes,     kVectors, {kRows[0], kRows[1], kRows[2], kVectors > 2 ? kRows[3] : 0},
    kStream,    run_tile, run_stream,
    run_dots,   pack_columns,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
