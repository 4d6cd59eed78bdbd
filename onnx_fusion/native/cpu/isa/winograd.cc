// Winograd's minimal filtering (isa/winograd_lines.h): tiles to planes, products, planes to tiles.
#include "cpu/winograd_kernels.h"

#include <limits>

#include "cpu/isa/places.h"
#include "cpu/isa/product.h"
#include "cpu/isa/winograd_apart.h"
#include "cpu/isa/winograd_lines.h"
#include "cpu/isa/winograd_product.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <int H, int W, bool Table, bool Whole, bool Cut>
inline __attribute__((always_inline)) void input_vector(const WinogradInput& t, const Places& lines,
                                                        const Places& planes, int64_t c,
                                                        Mask mask) {
  Floats down[W][H];
  const float* in = t.base + c;
#pragma GCC unroll 9
  for (int j = 0; j < W; ++j, in += t.pixel) {
    Floats x[H];
    if (!Table) in = hidden(in);
#pragma GCC unroll 9
    for (int i = 0; i < H; ++i) {
      const float* p = Table ? t.places[i * W + j] + c : lines.at(in, i);
      x[i] = Whole ? load(p) : load_where(p, mask, Floats{});
    }
    if constexpr (H == 1) {
      down[j][0] = x[0];
    } else if constexpr (Cut) {
      input_cut(x, t.lines, down[j]);
    } else {
      input_line(x, down[j]);
    }
  }
  float* out = t.out + c;
#pragma GCC unroll 9
  for (int i = 0; i < H; ++i, out += W * t.plane) {
    Floats x[W], y[W];
#pragma GCC unroll 9
    for (int j = 0; j < W; ++j) x[j] = down[j][i];
    if constexpr (Cut) {
      input_cut(x, t.pixels, y);
    } else {
      input_line(x, y);
    }
    out = hidden(out);
#pragma GCC unroll 9
    for (int j = 0; j < W; ++j) store(planes.at(out, j), y[j]);
  }
}

template <WinogradShape Shape, bool Table, bool Cut = false>
void input_tile(const WinogradInput& tile) {
  constexpr int H = winograd_size(Shape).reach_lines, W = winograd_size(Shape).reach_pixels;
  const WinogradInput t = tile;  // or each store might change it
  const Places lines(t.line), planes(t.plane);
  int64_t c = 0;
  for (; c + kLanes <= t.channels; c += kLanes) {
    input_vector<H, W, Table, true, Cut>(t, lines, planes, c, mask_all());
  }
  if (c < t.channels) {
    input_vector<H, W, Table, false, Cut>(t, lines, planes, c,
                                          mask_of((1u << (t.channels - c)) - 1u));
  }
}

// Is the border to leave planes out?
template <WinogradShape Shape, class Tile>
bool is_cut(const Tile& t) {
  constexpr WinogradSize size = winograd_size(Shape);
  return size.apart > 1 && (t.lines < size.lines || t.pixels < size.pixels);
}

template <WinogradShape Shape>
void input_shape(const WinogradInput& t) {
  if constexpr (winograd_size(Shape).apart > 1) {
    if (is_cut<Shape>(t)) {
      return t.places != nullptr ? input_tile<Shape, true, true>(t)
                                 : input_tile<Shape, false, true>(t);
    }
  }
  if (t.places != nullptr) return input_tile<Shape, true>(t);
  input_tile<Shape, false>(t);
}

void run_input(WinogradShape shape, const WinogradInput& t) {
  switch (shape) {
    case WinogradShape::square2: return input_shape<WinogradShape::square2>(t);
    case WinogradShape::square4:
    case WinogradShape::square2_of_5: return input_shape<WinogradShape::square4>(t);
    case WinogradShape::line4:
    case WinogradShape::line2_of_5: return input_shape<WinogradShape::line4>(t);
    case WinogradShape::line6:
    case WinogradShape::line4_of_5: return input_shape<WinogradShape::line6>(t);
    case WinogradShape::oblong: return input_shape<WinogradShape::oblong>(t);
    case WinogradShape::apart4: return input_shape<WinogradShape::apart4>(t);
  }
}

template <bool Whole>
inline Floats fetch(const float* p, Mask mask) {
  return Whole ? load(p) : load_where(p, mask, Floats{});
}

// What an output transform does to a line of a tile, apart from what is stored.
struct OutputEnd {
  explicit OutputEnd(const WinogradOutput& t)
      : factor(broadcast(t.scale)),
        shift(broadcast(t.shift)),
        low(broadcast(t.low)),
        high(broadcast(t.high)),
        clamps(t.low > -std::numeric_limits<float>::infinity()),
        caps(t.high < std::numeric_limits<float>::infinity()) {
    hide(clamps);
    hide(caps);
  }
  Floats factor, shift, low, high;
  bool clamps, caps;
};

template <int Q>
inline void finish_line(const WinogradOutput& t, const OutputEnd& end, Floats (&y)[Q]) {
  const auto each = [&](const auto& change) {
#pragma GCC unroll 6
    for (int j = 0; j < Q; ++j) y[j] = change(y[j]);
  };
  if (end.clamps) each([&](Floats x) { return x < end.low ? end.low : x; });
  if (end.caps) each([&](Floats x) { return x > end.high ? end.high : x; });
  if (t.gate != nullptr) {
    const Floats low = broadcast(t.gate[2]), high = broadcast(t.gate[3]);
    each([&](Floats x) { return x * clamp(x * t.gate[0] + t.gate[1], low, high); });
  }
  if (t.after != nullptr) each([&](Floats x) { return x * t.after[0] + t.after[1]; });
}

// Whole: all lanes, lines and pixels are written.
template <WinogradShape Shape, bool Whole, bool Cut>
inline __attribute__((always_inline)) void output_vector(const WinogradOutput& t,
                                                         const Places& planes, const Places& pixels,
                                                         const Places& residuals,
                                                         const OutputEnd& end, int64_t c,
                                                         int lanes) {
  constexpr WinogradSize size = winograd_size(Shape);
  constexpr int H = size.reach_lines, W = size.reach_pixels, P = size.lines, Q = size.pixels;
  const int64_t plane = t.vectors * kLanes;
  const Mask mask = mask_of((1u << lanes) - 1u);
  Floats down[W][P];
  const float* in = t.in + c;
#pragma GCC unroll 9
  for (int j = 0; j < W; ++j, in += plane) {
    Floats x[H];
    const bool there = !Cut || is_plane(j, Q, t.pixels);
    in = hidden(in);
#pragma GCC unroll 9
    for (int i = 0; i < H; ++i) {
      x[i] = there && (!Cut || is_plane(i, P, t.lines)) ? load(planes.at(in, i)) : Floats{};
    }
    if constexpr (H == 1) {
      down[j][0] = x[0];
    } else if constexpr (Cut) {
      output_cut(x, t.lines, down[j]);
    } else {
      output_line(x, down[j]);
    }
  }
  const Floats bias = t.bias != nullptr ? fetch<Whole>(t.bias + c, mask) : Floats{};
  const Floats summand = end.shift + bias;
  float* out = t.out + c;
#pragma GCC unroll 4
  for (int i = 0; i < P; ++i, out += t.line) {
    if (!Whole && i >= t.lines) return;
    Floats x[W], y[Q];
#pragma GCC unroll 9
    for (int j = 0; j < W; ++j) x[j] = down[j][i];
    if constexpr (Cut) {
      output_cut(x, t.pixels, y);
    } else {
      output_line(x, y);
    }
#pragma GCC unroll 6
    for (int j = 0; j < Q; ++j) y[j] = y[j] * end.factor + summand;
    if (t.residual != nullptr) {
      const float* residual = hidden(t.residual + i * t.residual_line + c);
#pragma GCC unroll 6
      for (int j = 0; j < Q; ++j) {
        if (Whole || j < t.pixels) y[j] += fetch<Whole>(residuals.at(residual, j), mask);
      }
    }
    finish_line(t, end, y);
    out = hidden(out);
#pragma GCC unroll 6
    for (int j = 0; j < Q; ++j) {
      if (Whole) {
        store(pixels.at(out, j), y[j]);
      } else if (j < t.pixels && lanes == kLanes) {
        store(pixels.at(out, j), y[j]);
      } else if (j < t.pixels) {
        store_some(pixels.at(out, j), y[j], lanes);
      }
    }
  }
}

template <WinogradShape Shape, bool Cut = false>
void output_tiles(const WinogradOutput& tiles) {
  constexpr WinogradSize size = winograd_size(Shape);
  if constexpr (!Cut && size.apart > 1) {
    if (is_cut<Shape>(tiles)) return output_tiles<Shape, true>(tiles);
  }
  WinogradOutput t = tiles;  // a copy, or each store might change it
  const int64_t width = t.vectors * kLanes;
  const int64_t filters = t.filters < width ? t.filters : width;
  const Places planes(size.reach_pixels * width), pixels(t.pixel), residuals(t.residual_pixel);
  const OutputEnd end(t);
  const bool whole = t.lines >= size.lines && t.pixels >= size.pixels;
  for (; t.tiles > 0; --t.tiles) {
    int64_t c = 0;
    for (; whole && c + kLanes <= filters; c += kLanes) {
      output_vector<Shape, true, Cut>(t, planes, pixels, residuals, end, c, kLanes);
    }
    for (; c < filters; c += kLanes) {
      const int64_t lanes = filters - c < kLanes ? filters - c : kLanes;
      output_vector<Shape, false, Cut>(t, planes, pixels, residuals, end, c,
                                       static_cast<int>(lanes));
    }
    t.in += size.planes() * width;
    t.out += size.pixels * t.pixel;
    if (t.residual != nullptr) t.residual += size.pixels * t.residual_pixel;
  }
}

void run_output(WinogradShape shape, const WinogradOutput& t) {
  switch (shape) {
    case WinogradShape::square2: return output_tiles<WinogradShape::square2>(t);
    case WinogradShape::square4: return output_tiles<WinogradShape::square4>(t);
    case WinogradShape::line4: return output_tiles<WinogradShape::line4>(t);
    case WinogradShape::square2_of_5: return output_tiles<WinogradShape::square2_of_5>(t);
    case WinogradShape::line2_of_5: return output_tiles<WinogradShape::line2_of_5>(t);
    case WinogradShape::line6: return output_tiles<WinogradShape::line6>(t);
    case WinogradShape::line4_of_5: return output_tiles<WinogradShape::line4_of_5>(t);
    case WinogradShape::oblong: return output_tiles<WinogradShape::oblong>(t);
    case WinogradShape::apart4: return output_tiles<WinogradShape::apart4>(t);
  }
}

typedef double Doubles __attribute__((vector_size(kLanes * 4)));
typedef double LooseDoubles __attribute__((vector_size(kLanes * 4), aligned(8), may_alias));
typedef float LooseHalf __attribute__((vector_size(kLanes * 2), aligned(4), may_alias));

void run_taps(WinogradShape shape, const WinogradTaps& t) {
  constexpr int kMost = 8;
  const WinogradSize size = winograd_size(shape);
  const auto at = [&](int64_t row, int64_t c) {
    return Doubles(*reinterpret_cast<const LooseDoubles*>(t.in + row * t.width + c));
  };
  Doubles half[kMost][kMost];
  for (int64_t c = 0; c < t.width; c += kLanes / 2) {
    for (int s = 0; s < t.taps; ++s) {
      half[0][s] = at(s, c);
      if (size.reach_lines == 1) continue;
      Doubles down[kMost];
      for (int r = 0; r < t.taps; ++r) down[r] = at(r * t.taps + s, c);
      for (int i = 0; i < size.weight_lines(); ++i) {
        half[i][s] = down[0] * t.down[i * t.taps];
        for (int r = 1; r < t.taps; ++r) half[i][s] += down[r] * t.down[i * t.taps + r];
      }
    }
    float* out = t.out + c;
    for (int i = 0; i < size.weight_lines(); ++i) {
      for (int j = 0; j < size.weight_pixels(); ++j, out += t.plane) {
        Doubles sum = half[i][0] * t.along[j * t.taps];
        for (int s = 1; s < t.taps; ++s) sum += half[i][s] * t.along[j * t.taps + s];
        *reinterpret_cast<LooseHalf*>(out) = __builtin_convertvector(sum, Half);
      }
    }
  }
}

}  // namespace

extern const WinogradKernels winograd_kernels;
const WinogradKernels winograd_kernels = {
    kLanes,    kVectors,    {kRows[0], kRows[1], kRows[2], kRows[3], kRows[4]},
    run_input, run_product, run_output,
    run_taps,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
