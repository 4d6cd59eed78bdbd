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
constexpr int kMostRows = 8, kPackVectors = 12;

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

void run_transpose(const float* in, int64_t in_step, int64_t rows, int64_t columns, float* out,
                   int64_t out_step) {
  int64_t r = 0;
  for (; r + kLanes <= rows; r += kLanes) {
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      const float* from[kLanes];
      for (int i = 0; i < kLanes; ++i) from[i] = in + (r + i) * in_step + c;
      transpose_block(from, kLanes, out + c * out_step + r, out_step);
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < kLanes; ++i) out[c * out_step + r + i] = in[(r + i) * in_step + c];
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) out[c * out_step + r] = in[r * in_step + c];
  }
}

// Panels of `width` floats per k, `panel_floats` apart: where vector `v` of a block goes for k = 0.
struct PackPlace {
  int vectors;  // of a panel
  int64_t width, panel_floats;
  float* out;
  float* at(int64_t v) const { return out + v / vectors * panel_floats + v % vectors * kLanes; }
};

void pack_along_k(const ColumnPack& pack, const PackPlace& place, int64_t column, int64_t count,
                  int64_t depth) {
  for (int64_t v = 0; v < count; ++v) {
    const int lanes = pack.vectors[column / kLanes + v].lanes;
    float* out = place.at(v);
    const float* rows[kLanes];
    for (int l = 0; l < lanes; ++l) rows[l] = pack.base + pack.outer[column + v * kLanes + l];
    int64_t k = 0;
    for (; k + kLanes <= depth; k += kLanes) {
      transpose_block(rows, lanes, out + k * place.width, place.width);
      for (int l = 0; l < lanes; ++l) rows[l] += kLanes;
    }
    for (; k < depth; ++k) {
      for (int l = 0; l < kLanes; ++l) out[k * place.width + l] = l < lanes ? *rows[l]++ : 0.0f;
    }
  }
}

template <int G>
inline Mask inside(const ColumnPack& pack, int64_t column, int64_t k) {
  Mask valid = mask_all();
  const int count = G > 2 ? pack.guard_count : G;
  for (int g = 0; g < count; ++g) {
    const PackGuard& guard = pack.guards[g];
    valid = mask_and(valid, mask_inside(guard.outer + column, guard.inner[k], guard.extent));
  }
  return valid;
}

// G guards; 3 stands for any number. k goes outside: one k's columns are neighbours in memory.
template <int G>
void pack_block(const ColumnPack& pack, const PackPlace& place, int64_t column, int64_t count,
                int64_t depth) {
  const ColumnVector* vectors = pack.vectors + column / kLanes;
  const Floats fill = G > 0 ? broadcast(pack.fill) : Floats{};
  float* outs[kPackVectors];
  for (int64_t v = 0; v < count; ++v) outs[v] = place.at(v);
  for (int64_t k = 0; k < depth; ++k) {
    const float* base = pack.base + pack.inner[k];
    for (int64_t v = 0; v < count; ++v) {
      const ColumnVector& vector = vectors[v];
      const ColumnSegment* segment = pack.segments + vector.segment;
      float* out = outs[v];
      outs[v] += place.width;
      if (G == 0 && vector.kind == kOneRun && vector.lanes == kLanes) {
        store(out, load(base + segment->offset));
        continue;
      }
      const Mask valid = inside<G>(pack, column + v * kLanes, k);
      Floats x = fill;
      if (vector.kind == kEvenRuns) {
        for (int s = 0; s < vector.segments; ++s) {
          x = load_even(base + segment[s].offset, mask_and(valid, mask_of(segment[s].mask)), x);
        }
      } else if (vector.kind == kScattered) {
        for (int l = 0; l < vector.lanes; ++l) {
          if (mask_has(valid, l)) x[l] = base[pack.outer[column + v * kLanes + l]];
        }
      } else {
        for (int s = 0; s < vector.segments; ++s) {
          x = load_where(base + segment[s].offset, mask_and(valid, mask_of(segment[s].mask)), x);
        }
      }
      store(out, x);
    }
  }
}

void pack_columns(const ColumnPack& pack, int64_t column, int64_t count, int vectors,
                  int64_t depth, float* out) {
  const int64_t width = static_cast<int64_t>(vectors) * kLanes;
  const int64_t block = kPackVectors / vectors * vectors;
  for (int64_t v = 0; v < count; v += block) {
    const int64_t some = count - v < block ? count - v : block;
    const PackPlace place{vectors, width, width * depth, out + v / vectors * width * depth};
    const int64_t at = column + v * kLanes;
    if (pack.along_k) {
      pack_along_k(pack, place, at, some, depth);
    } else if (pack.guard_count == 0) {
      pack_block<0>(pack, place, at, some, depth);
    } else if (pack.guard_count == 1) {
      pack_block<1>(pack, place, at, some, depth);
    } else if (pack.guard_count == 2) {
      pack_block<2>(pack, place, at, some, depth);
    } else {
      pack_block<3>(pack, place, at, some, depth);
    }
  }
}

}  // namespace

extern const GemmKernels gemm_kernels;
const GemmKernels gemm_kernels = {
    kLanes,     kVectors, {kRows[0], kRows[1], kRows[2], kVectors > 2 ? kRows[3] : 0},
    kStream,    run_tile, run_stream,
    run_dots,   pack_columns, run_transpose,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
