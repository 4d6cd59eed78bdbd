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
void tile(int pieces, const int64_t* depths, const float* const* rows, int64_t a_step,
          const float* b, int64_t b_step, float* c, int64_t ldc, bool add) {
  Floats sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[i][v] = Floats{};
  }
  for (int piece = 0; piece < pieces; ++piece, rows += R) {
    const float* a[R];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) a[i] = rows[i];
    int64_t at = 0;
    for (int64_t p = depths[piece]; p > 0; --p) {
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

using Tile = void (*)(int, const int64_t*, const float* const*, int64_t, const float*, int64_t,
                      float*, int64_t, bool);

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

void run_tile(int rows, int vectors, int pieces, const int64_t* depths, const float* const* a,
              int64_t a_step, const float* b, int64_t b_step, float* c, int64_t ldc, bool add) {
  kTiles[rows - 1][vectors - 1](pieces, depths, a, a_step, b, b_step, c, ldc, add);
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
                  int64_t k0, int64_t depth) {
  for (int64_t v = 0; v < count; ++v) {
    const int lanes = pack.vectors[column / kLanes + v].lanes;
    float* out = place.at(v);
    const float* rows[kLanes];
    for (int l = 0; l < lanes; ++l) rows[l] = pack.base + pack.outer[column + v * kLanes + l];
    int64_t k = 0;
    for (int l = 0; l < lanes; ++l) rows[l] += k0;
    for (; k + kLanes <= depth; k += kLanes) {
      transpose_block(rows, lanes, out + k * place.width, place.width);
      for (int l = 0; l < lanes; ++l) rows[l] += kLanes;
    }
    for (; k < depth; ++k) {
      for (int l = 0; l < kLanes; ++l) out[k * place.width + l] = l < lanes ? *rows[l]++ : 0.0f;
    }
  }
}

// Lane by lane where needed, every guard asked for every k.
void pack_slowly(const ColumnPack& pack, const PackPlace& place, int64_t column, int64_t count,
                 int64_t k0, int64_t depth) {
  for (int64_t v = 0; v < count; ++v) {
    const ColumnVector& vector = pack.vectors[column / kLanes + v];
    const ColumnSegment* segments = pack.segments + vector.segment;
    const int64_t first = column + v * kLanes;
    float* out = place.at(v);
    for (int64_t k = 0; k < depth; ++k, out += place.width) {
      const float* base = pack.base + pack.inner[k0 + k];
      Mask valid = mask_all();
      for (int g = 0; g < pack.guard_count; ++g) {
        const PackGuard& guard = pack.guards[g];
        valid = mask_and(valid, mask_inside(guard.outer + first, guard.inner[k0 + k], guard.extent));
      }
      Floats x = broadcast(pack.fill);
      if (vector.kind == kScattered) {
        for (int l = 0; l < vector.lanes; ++l) {
          if (mask_has(valid, l)) x[l] = base[pack.outer[first + l]];
        }
      }
      for (int s = 0; s < vector.segments; ++s) {
        const Mask mask = mask_and(valid, mask_of(segments[s].mask));
        const float* p = base + segments[s].offset;
        x = vector.kind == kEvenRuns ? load_even(p, mask, x) : load_where(p, mask, x);
      }
      store(out, x);
    }
  }
}

constexpr int kMaskGuards = 3, kMaskSegments = 32;

// The segments of a block of vectors, and per guard and value of it the lanes that are inside.
struct PackBlock {
  int64_t offsets[kMaskSegments];
  int ends[kPackVectors];
  uint16_t lanes[kMaskSegments];
  uint16_t inside[kMaskGuards][kMaxGuardValues][kMaskSegments];
};

bool prepare(const ColumnPack& pack, int64_t column, int64_t count, PackBlock* block) {
  if (pack.guard_count > kMaskGuards) return false;
  for (int g = 0; g < pack.guard_count; ++g) {
    if (pack.guards[g].choice == nullptr) return false;
  }
  const ColumnVector* vectors = pack.vectors + column / kLanes;
  int segments = 0;
  for (int64_t v = 0; v < count; ++v) {
    if (vectors[v].kind != vectors[0].kind && vectors[v].lanes > 0 &&
        (vectors[v].kind >= kEvenRuns || vectors[0].kind >= kEvenRuns)) {
      return false;
    }
    if (vectors[v].kind == kScattered || segments + vectors[v].segments > kMaskSegments) return false;
    const int first = segments;
    for (int s = 0; s < vectors[v].segments; ++s, ++segments) {
      const ColumnSegment& segment = pack.segments[vectors[v].segment + s];
      block->offsets[segments] = segment.offset;
      block->lanes[segments] = static_cast<uint16_t>(segment.mask);
    }
    block->ends[v] = segments;
    for (int g = 0; g < pack.guard_count; ++g) {
      const PackGuard& guard = pack.guards[g];
      for (int i = 0; i < guard.value_count; ++i) {
        const uint32_t bits = mask_bits(
            mask_inside(guard.outer + column + v * kLanes, guard.values[i], guard.extent));
        for (int s = first; s < segments; ++s) {
          block->inside[g][i][s] = static_cast<uint16_t>(bits);
        }
      }
    }
  }
  for (int s = segments; s < kMaskSegments; ++s) block->lanes[s] = 0;
  return true;
}

// k goes outside: one k's columns are neighbours in memory.
template <bool Even, bool Single>
void pack_block(const ColumnPack& pack, const PackPlace& place, const PackBlock& block,
                int64_t count, int64_t k0, int64_t depth) {
  const Floats fill = broadcast(pack.fill);
  float* outs[kPackVectors];
  for (int64_t v = 0; v < count; ++v) outs[v] = place.at(v);
  const int segments = (block.ends[count - 1] + 15) / 16 * 16;
  uint16_t masks[kMaskSegments];
  for (int s = 0; s < kMaskSegments; ++s) masks[s] = block.lanes[s];
  for (int64_t k = 0; k < depth; ++k) {
    const float* base = pack.base + pack.inner[k0 + k];
    const int64_t at = k * place.width;
    for (int g = 0; g < pack.guard_count; ++g) {
      const uint16_t* inside = block.inside[g][pack.guards[g].choice[k0 + k]];
      const uint16_t* lanes = g == 0 ? block.lanes : masks;
      for (int s = 0; s < segments; s += 16) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) masks[s + i] = static_cast<uint16_t>(lanes[s + i] & inside[s + i]);
      }
    }
    int s = 0;
    for (int64_t v = 0; v < count; ++v) {
      Floats x = fill;
      const int end = Single ? s + 1 : block.ends[v];
      for (; s < end; ++s) {
        const float* p = base + block.offsets[s];
        x = Even ? load_even(p, mask_of(masks[s]), x) : load_where(p, mask_of(masks[s]), x);
      }
      store(outs[v] + at, x);
    }
  }
}

// Whole vectors of consecutive elements, none of them outside.
void pack_plainly(const ColumnPack& pack, const PackPlace& place, const PackBlock& block,
                  int64_t count, int64_t k0, int64_t depth) {
  float* outs[kPackVectors];
  for (int64_t v = 0; v < count; ++v) outs[v] = place.at(v);
  for (int64_t k = 0; k < depth; ++k) {
    const float* base = pack.base + pack.inner[k0 + k];
    const int64_t at = k * place.width;
    for (int64_t v = 0; v < count; ++v) store(outs[v] + at, load(base + block.offsets[v]));
  }
}

void pack_some(const ColumnPack& pack, const PackPlace& place, int64_t column, int64_t count,
               int64_t k0, int64_t depth) {
  PackBlock block;
  if (!prepare(pack, column, count, &block)) return pack_slowly(pack, place, column, count, k0, depth);
  const bool even = pack.vectors[column / kLanes].kind == kEvenRuns;
  bool single = true, whole = !even && pack.guard_count == 0;
  for (int64_t v = 0; v < count; ++v) {
    single = single && block.ends[v] == v + 1;
    whole = whole && pack.vectors[column / kLanes + v].lanes == kLanes;
  }
  if (single && whole) return pack_plainly(pack, place, block, count, k0, depth);
  if (even) {
    return single ? pack_block<true, true>(pack, place, block, count, k0, depth)
                  : pack_block<true, false>(pack, place, block, count, k0, depth);
  }
  return single ? pack_block<false, true>(pack, place, block, count, k0, depth)
                : pack_block<false, false>(pack, place, block, count, k0, depth);
}

void pack_columns(const ColumnPack& pack, int64_t column, int64_t count, int vectors,
                  int64_t k0, int64_t depth, float* out) {
  const int64_t width = static_cast<int64_t>(vectors) * kLanes;
  const int64_t block = kPackVectors / vectors * vectors;
  for (int64_t v = 0; v < count; v += block) {
    const int64_t some = count - v < block ? count - v : block;
    const PackPlace place{vectors, width, width * depth, out + v / vectors * width * depth};
    const int64_t at = column + v * kLanes;
    if (pack.along_k) {
      pack_along_k(pack, place, at, some, k0, depth);
    } else {
      pack_some(pack, place, at, some, k0, depth);
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
