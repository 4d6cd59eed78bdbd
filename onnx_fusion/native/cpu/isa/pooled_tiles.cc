// Convolution of few channels by Winograd's minimal filtering and pooling, a few tiles of one row
// at a time. Pixels are vectors of channels until the product, then of filters.
#include "cpu/pooled_kernels.h"

#include "cpu/isa/numbers.h"
#include "cpu/isa/product.h"
#include "cpu/isa/winograd_lines.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int kReach = 6, kPlanes = kReach * kReach;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTiles[] = {0, 8, 8};
#else
constexpr int kTiles[] = {0, 8, 6};
#endif

// Vectors of channels: 8 of them, or what the ISA has.
#if defined(__AVX512F__)
constexpr int kShort = 8;
typedef Half Short;
#else
constexpr int kShort = kLanes;
typedef Floats Short;
#endif
typedef float LooseShort __attribute__((vector_size(kShort * 4), aligned(4), may_alias));
typedef int32_t ShortInts __attribute__((vector_size(kShort * 4)));

inline Short load_short(const float* p) { return *reinterpret_cast<const LooseShort*>(p); }
inline void store_short(float* p, Short x) { *reinterpret_cast<LooseShort*>(p) = x; }

template <int Bit>
inline void swap_short(Short* block) {
  ShortInts low, high;
  for (int l = 0; l < kShort; ++l) {
    low[l] = (l & Bit) ? kShort + (l ^ Bit) : l;
    high[l] = (l & Bit) ? kShort + l : (l ^ Bit);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kShort; ++r) {
    if (r & Bit) continue;
    const Short a = block[r], b = block[r | Bit];
    block[r] = __builtin_shuffle(a, b, low);
    block[r | Bit] = __builtin_shuffle(a, b, high);
  }
}

// `rows` of kShort rows exist, and so many results are stored.
template <bool Whole>
inline void turn(const float* in, int64_t in_step, int64_t rows, float* out, int64_t out_step,
                 int64_t stored) {
  Short block[kShort];
#pragma GCC unroll 8
  for (int r = 0; r < kShort; ++r) {
    block[r] = Whole || r < rows ? load_short(in + r * in_step) : Short{};
  }
  swap_short<1>(block);
  swap_short<2>(block);
  if (kShort > 4) swap_short<4>(block);
#pragma GCC unroll 8
  for (int r = 0; r < kShort; ++r) {
    if (Whole || r < stored) store_short(out + r * out_step, block[r]);
  }
}

void turn_in(const float* x, int64_t step, int64_t channels, int64_t count, int64_t room,
             float* out) {
  for (int64_t c = 0; c < channels; c += kShort) {
    const float* from = x + c * step;
    const int64_t some = channels - c;
    if (count < kShort) {
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t k = 0; k < some && k < kShort; ++k) out[i * room + c + k] = from[k * step + i];
      }
      continue;
    }
    // The last pixels are turned with some before them.
    for (int64_t i = 0;; i = i + 2 * kShort <= count ? i + kShort : count - kShort) {
      if (some >= kShort) {
        turn<true>(from + i, step, kShort, out + i * room + c, room, kShort);
      } else {
        turn<false>(from + i, step, some, out + i * room + c, room, kShort);
      }
      if (i + kShort == count) break;
    }
  }
}

void turn_out(const float* in, int64_t step, int64_t pixels, int64_t filters, float* out,
              int64_t out_step) {
  for (int64_t f = 0; f < filters; f += kShort) {
    const int64_t some = filters - f;
    float* to = out + f * out_step;
    if (pixels < kShort) {
      for (int64_t k = 0; k < some && k < kShort; ++k) {
        for (int64_t i = 0; i < pixels; ++i) to[k * out_step + i] = in[i * step + f + k];
      }
      continue;
    }
    for (int64_t i = 0;; i = i + 2 * kShort <= pixels ? i + kShort : pixels - kShort) {
      if (some >= kShort) {
        turn<true>(in + i * step + f, step, kShort, to + i, out_step, kShort);
      } else {
        turn<false>(in + i * step + f, step, kShort, to + i, out_step, some);
      }
      if (i + kShort == pixels) break;
    }
  }
}

template <int Room>
void input_tiles(const PooledInput& t) {
  constexpr int64_t wide = (2 * kPooledTiles + kReach - 2) * Room, plane = kPooledTiles * Room;
  const int64_t used = (2 * t.tiles + kReach - 2) * Room;
  Short x[kReach], y[kReach];
  for (int64_t at = 0; at < used; at += kShort) {
#pragma GCC unroll 6
    for (int i = 0; i < kReach; ++i) x[i] = load_short(t.lines + i * t.line + at);
    input_line(x, y);
#pragma GCC unroll 6
    for (int i = 0; i < kReach; ++i) store_short(t.columns + i * wide + at, y[i]);
  }
  for (int i = 0; i < kReach; ++i) {
    const float* from = t.columns + i * wide;
    float* to = t.planes + i * kReach * plane;
    for (int tile = 0; tile < t.tiles; ++tile, from += 2 * Room, to += Room) {
#pragma GCC unroll 4
      for (int c = 0; c < Room; c += kShort) {
#pragma GCC unroll 6
        for (int j = 0; j < kReach; ++j) x[j] = load_short(from + j * Room + c);
        input_line(x, y);
#pragma GCC unroll 6
        for (int j = 0; j < kReach; ++j) store_short(to + j * plane + c, y[j]);
      }
    }
  }
}

void run_input(const PooledInput& input) {
  if (input.room == 8) return input_tiles<8>(input);
  input_tiles<16>(input);
}

template <int R, int V, int Room>
void product_tiles(const PooledProduct& p) {
  const float *in = p.planes, *weights = p.weights;
  const int64_t channels = p.channels;
  float* out = p.out;
  for (int plane = 0; plane < kPlanes; ++plane, in += kPooledTiles * Room) {
    Floats sum[R][V];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[i][v] = Floats{};
    }
#pragma GCC unroll 2
    for (int64_t k = 0; k < channels; ++k, weights += V * kLanes) {
      Floats x[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) x[v] = load(weights + v * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) add_product(sum[i], in[i * Room + k], x);
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) store(out + (i * V + v) * kLanes, sum[i][v]);
    }
    out += (kPooledTiles + 1) * V * kLanes;
  }
}

template <int V, int Room>
void product_vectors(const PooledProduct& p) {
  switch (p.tiles) {
    case 1: return product_tiles<1, V, Room>(p);
    case 2: return product_tiles<2, V, Room>(p);
    case 3: return product_tiles<3, V, Room>(p);
    case 4: return product_tiles<4, V, Room>(p);
    case 5: return product_tiles<5, V, Room>(p);
    case 6: return product_tiles<6, V, Room>(p);
    default: break;
  }
  if constexpr (kTiles[V] > 6) {
    return p.tiles == 7 ? product_tiles<7, V, Room>(p) : product_tiles<8, V, Room>(p);
  }
}

void run_product(const PooledProduct& p) {
  if (p.vectors == 1) return p.room == 8 ? product_vectors<1, 8>(p) : product_vectors<1, 16>(p);
  return p.room == 8 ? product_vectors<2, 8>(p) : product_vectors<2, 16>(p);
}

template <int V>
void output_tiles(const PooledOutput& t) {
  constexpr int64_t width = V * kLanes, plane = (kPooledTiles + 1) * width;
  const Floats low = broadcast(t.low), high = broadcast(t.high);
  for (int tile = 0; tile < t.tiles; ++tile) {
    for (int64_t c = 0; c < width; c += kLanes) {
      const float* from = t.in + tile * width + c;
      Floats y[2][2];
#pragma GCC unroll 6
      for (int j = 0; j < kReach; ++j) {
        Floats x[kReach], down[2];
#pragma GCC unroll 6
        for (int i = 0; i < kReach; ++i) x[i] = load(from + (i * kReach + j) * plane);
        output_line(x, down);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          if (j + 1 < kReach) y[i][0] = j == 0 ? down[i] : y[i][0] + down[i];
          const float share = j + 1 < kReach ? share_of<kReach>(j) : 1.0f;
          if (j > 0) y[i][1] = j == 1 ? down[i] * share : y[i][1] + down[i] * share;
        }
      }
      Floats z = most(most(y[0][0], y[0][1]), most(y[1][0], y[1][1]));
      if (!all_finite((y[0][0] + y[0][1]) + (y[1][0] + y[1][1]))) {
        z = Max::join(Max::join(y[0][0], y[0][1]), Max::join(y[1][0], y[1][1]));
      }
      store(t.out + tile * t.step + c, clamp(z + load(t.bias + c), low, high));
    }
  }
}

void run_output(const PooledOutput& output) {
  if (output.vectors == 1) return output_tiles<1>(output);
  output_tiles<2>(output);
}

}  // namespace

extern const PooledTileKernels pooled_tile_kernels;
const PooledTileKernels pooled_tile_kernels = {
    kLanes,     2,        {kTiles[0], kTiles[1], kTiles[2]}, turn_in, run_input, run_product,
    run_output, turn_out,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
