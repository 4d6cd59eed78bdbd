// The packing of a contraction's columns, in vector extensions.
#include <cstdint>

#include "cpu/contract_kernels.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tile.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kPackVectors = 12;

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
        valid =
            mask_and(valid, mask_inside(guard.outer + first, guard.inner[k0 + k], guard.extent));
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
    if (vectors[v].kind == kScattered || segments + vectors[v].segments > kMaskSegments)
      return false;
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
        for (int i = 0; i < 16; ++i)
          masks[s + i] = static_cast<uint16_t>(lanes[s + i] & inside[s + i]);
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
  if (!prepare(pack, column, count, &block))
    return pack_slowly(pack, place, column, count, k0, depth);
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

void pack_columns(const ColumnPack& pack, int64_t column, int64_t count, int vectors, int64_t k0,
                  int64_t depth, float* out) {
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
    kLanes,         kTileVectors, {kTileRows[0], kTileRows[1], kTileRows[2], kTileRows[3]},
    run_plain_tile, run_dots,     pack_columns,
    run_transpose,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
