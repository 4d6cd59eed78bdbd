// Convolution line by line, of which only the maximum over windows of 2 x 2 outputs is kept: even
// and odd pixels lie apart, so that a window's outputs are one lane of four vectors.
#include "cpu/isa/numbers.h"
#include "cpu/isa/winograd_lines.h"
#include "cpu/pooled_kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Four sums for each filter, four inputs, and weights.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kFilters = 6;
#else
constexpr int kFilters = 2;
#endif
constexpr int kPlaneFilters = 6;  // two sums for each, two inputs, and weights
// Six for each: with 16 registers there would be too few sums at once.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kFoldedFilters = 4;
#else
constexpr int kFoldedFilters = 0;
#endif

#if defined(__AVX512F__)
#define EVERY_SECOND 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#elif defined(__AVX2__)
#define EVERY_SECOND 0, 2, 4, 6, 8, 10, 12, 14
#else
#define EVERY_SECOND 0, 2, 4, 6
#endif

void split(const float* x, int64_t count, float* even, float* odd) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Floats a = load(x + i), b = load(x + i + kLanes);
    store(even + i / 2, __builtin_shuffle(a, b, Ints{EVERY_SECOND}));
    store(odd + i / 2, __builtin_shuffle(a, b, Ints{EVERY_SECOND} + 1));
  }
  for (; i < count; ++i) (i % 2 == 0 ? even : odd)[i / 2] = x[i];
}
#undef EVERY_SECOND

#if defined(__AVX512F__)
typedef Half Rest;  // what is at a row's end, if it fits
#else
typedef Floats Rest;
#endif

template <class Vector>
inline Vector load_all(const float* p) {
  typedef float Loose __attribute__((vector_size(sizeof(Vector)), aligned(4), may_alias));
  return *reinterpret_cast<const Loose*>(p);
}

inline Floats join(const Floats (&y)[4]) {
  if (all_finite((y[0] + y[1]) + (y[2] + y[3]))) return most(most(y[0], y[1]), most(y[2], y[3]));
  return Max::join(Max::join(y[0], y[1]), Max::join(y[2], y[3]));
}
inline void write(float* out, Floats x, int count) {
  if (count == kLanes) return store(out, x);
  store_some(out, x, count);
}
#if defined(__AVX512F__)
inline Half join(const Half (&y)[4]) {
  return Max::join(Max::join(y[0], y[1]), Max::join(y[2], y[3]));
}
inline void write(float* out, Half x, int count) {
  _mm256_mask_storeu_ps(out, static_cast<__mmask8>((1u << count) - 1u), (__m256)x);
}
#endif

// `count` maxima of a row, from q on, for R filters.
template <int R, int Along, class Vector>
inline void pooled_vector(const PooledLine& t, int64_t q, int count) {
  Vector sum[R][4];
#pragma GCC unroll 8
  for (int f = 0; f < R; ++f) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[f][i] = Vector{};
  }
  const int64_t half = t.line / 2;
  const float* w = t.weights;
  for (int64_t channel = 0; channel < t.channels; ++channel) {
    const float* x = t.lines + channel * t.channel + q;
    for (int r = 0; r < t.down; ++r, x += t.line, w += Along * R) {
      const float* const next = x + t.line;
      Vector a = load_all<Vector>(x), b = load_all<Vector>(next);
#pragma GCC unroll 5
      for (int s = 0; s < Along; ++s) {
        const int64_t at = (s + 1) % 2 * half + (s + 1) / 2;
        const Vector c = load_all<Vector>(x + at), d = load_all<Vector>(next + at);
#pragma GCC unroll 8
        for (int f = 0; f < R; ++f) {
          const float y = w[s * R + f];
          sum[f][0] += y * a;
          sum[f][1] += y * c;
          sum[f][2] += y * b;
          sum[f][3] += y * d;
        }
        a = c;
        b = d;
      }
    }
  }
  const Vector low = t.low - Vector{}, high = t.high - Vector{};
#pragma GCC unroll 8
  for (int f = 0; f < R; ++f) {
    write(t.out + f * t.filter_step + q, clamp(join(sum[f]) + t.bias[f], low, high), count);
  }
}

template <int R, int Along>
struct Direct {
  template <class Vector>
  static void run(const PooledLine& t, int64_t q, int count) {
    pooled_vector<R, Along, Vector>(t, q, count);
  }
};

template <int Reach>
void planes_of(const PooledLine& t, int64_t count, float* out) {
  const int64_t half = t.line / 2;
  for (int64_t channel = 0; channel < t.channels; ++channel, out += Reach * t.line) {
    const float* in = t.lines + channel * t.channel;
    for (int64_t i = 0; i < 2 * count; i += kLanes) {
      const int64_t at = i < count ? i : half + i - count;
      Floats x[Reach], y[Reach];
#pragma GCC unroll 6
      for (int k = 0; k < Reach; ++k) x[k] = load(in + k * t.line + at);
      input_line(x, y);
#pragma GCC unroll 6
      for (int k = 0; k < Reach; ++k) store(out + k * t.line + at, y[k]);
    }
  }
}

void run_planes(const PooledLine& t, int64_t count, float* out) {
  if (t.down == 3) return planes_of<4>(t, count, out);
  planes_of<6>(t, count, out);
}

// Adds all channels' products along a plane's line at x to the sums of even and odd pixels; returns
// where the next plane's weights begin.
template <int R, int Along, class Vector>
[[gnu::always_inline]] inline const float* add_line(const PooledLine& t, const float* x,
                                                    const float* w, Vector (&sum)[R][2]) {
  const int64_t half = t.line / 2;
  for (int64_t channel = 0; channel < t.channels; ++channel, x += t.channel, w += Along * R) {
    Vector a = load_all<Vector>(x);
#pragma GCC unroll 5
    for (int s = 0; s < Along; ++s) {
      const Vector b = load_all<Vector>(x + (s + 1) % 2 * half + (s + 1) / 2);
#pragma GCC unroll 8
      for (int f = 0; f < R; ++f) {
        const float y = w[s * R + f];
        sum[f][0] += y * a;
        sum[f][1] += y * b;
      }
      a = b;
    }
  }
  return w;
}

// As pooled_vector, from planes: sums of even and odd pixels, then the two lines of outputs.
template <int R, int Along, int Reach, class Vector>
inline void plane_vector(const PooledLine& t, int64_t q, int count) {
  Vector products[Reach][R][2];
  const float* w = t.weights;
  for (int plane = 0; plane < Reach; ++plane) {
    Vector sum[R][2];
#pragma GCC unroll 8
    for (int f = 0; f < R; ++f) sum[f][0] = sum[f][1] = Vector{};
    w = add_line<R, Along>(t, t.lines + plane * t.line + q, w, sum);
#pragma GCC unroll 8
    for (int f = 0; f < R; ++f) {
      products[plane][f][0] = sum[f][0];
      products[plane][f][1] = sum[f][1];
    }
  }
  const Vector low = t.low - Vector{}, high = t.high - Vector{};
  for (int f = 0; f < R; ++f) {
    Vector y[4];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      Vector x[Reach], lines[2];
#pragma GCC unroll 6
      for (int k = 0; k < Reach; ++k) x[k] = products[k][f][i];
      output_line(x, lines);
      y[i] = lines[0];
      y[2 + i] = lines[1];
    }
    write(t.out + f * t.filter_step + q, clamp(join(y) + t.bias[f], low, high), count);
  }
}

// As plane_vector, adding each plane's sums to the outputs at once.
template <int R, int Along, int Reach, class Vector>
inline void folded_vector(const PooledLine& t, int64_t q, int count) {
  Vector first[R][2], second[R][2];
  const float* w = t.weights;
#pragma GCC unroll 6
  for (int plane = 0; plane < Reach; ++plane) {
    Vector sum[R][2];
#pragma GCC unroll 8
    for (int f = 0; f < R; ++f) {
      sum[f][0] = plane + 1 == Reach ? second[f][0] : Vector{};
      sum[f][1] = plane + 1 == Reach ? second[f][1] : Vector{};
    }
    w = add_line<R, Along>(t, t.lines + plane * t.line + q, w, sum);
#pragma GCC unroll 8
    for (int f = 0; f < R; ++f) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        if (plane + 1 < Reach) first[f][i] = plane == 0 ? sum[f][i] : first[f][i] + sum[f][i];
        const float share = share_of<Reach>(plane);
        if (plane == 1) second[f][i] = share * sum[f][i];
        if (plane > 1) second[f][i] += share * sum[f][i];
        if (plane + 1 == Reach) second[f][i] = sum[f][i];
      }
    }
  }
  const Vector low = t.low - Vector{}, high = t.high - Vector{};
#pragma GCC unroll 8
  for (int f = 0; f < R; ++f) {
    const Vector y[4] = {first[f][0], first[f][1], second[f][0], second[f][1]};
    write(t.out + f * t.filter_step + q, clamp(join(y) + t.bias[f], low, high), count);
  }
}

template <int R, int Along>
struct Folded {
  template <class Vector>
  static void run(const PooledLine& t, int64_t q, int count) {
    if (t.down == 3) return folded_vector<R, Along, 4, Vector>(t, q, count);
    folded_vector<R, Along, 6, Vector>(t, q, count);
  }
};

template <int R, int Along>
struct Planes {
  template <class Vector>
  static void run(const PooledLine& t, int64_t q, int count) {
    if (t.down == 3) return plane_vector<R, Along, 4, Vector>(t, q, count);
    plane_vector<R, Along, 6, Vector>(t, q, count);
  }
};

template <class Way>
void each_vector(const PooledLine& t) {
  constexpr int kRest = sizeof(Rest) / sizeof(float);
  int64_t q = 0;
  for (; q + kRest < t.columns; q += kLanes) {
    const int count = t.columns - q < kLanes ? static_cast<int>(t.columns - q) : kLanes;
    Way::template run<Floats>(t, q, count);
  }
  if (q < t.columns) Way::template run<Rest>(t, q, static_cast<int>(t.columns - q));
}

template <template <int, int> class Way, int R, int Most>
void filters_of(const PooledLine& t) {
  if constexpr (R <= Most) {
    if (t.along == 3) return each_vector<Way<R, 3>>(t);
    each_vector<Way<R, 5>>(t);
  }
}

template <template <int, int> class Way, int Most>
void rows_of(const PooledLine& t, int filters) {
  switch (filters) {
    case 1: return filters_of<Way, 1, Most>(t);
    case 2: return filters_of<Way, 2, Most>(t);
    case 3: return filters_of<Way, 3, Most>(t);
    case 4: return filters_of<Way, 4, Most>(t);
    case 5: return filters_of<Way, 5, Most>(t);
    default: return filters_of<Way, 6, Most>(t);
  }
}

}  // namespace

extern const PooledLineKernels pooled_line_kernels;
const PooledLineKernels pooled_line_kernels = {
    kLanes,
    sizeof(Rest) / sizeof(float),
    kFilters,
    kPlaneFilters,
    kFoldedFilters,
    split,
    rows_of<Direct, kFilters>,
    run_planes,
    rows_of<Planes, kPlaneFilters>,
    rows_of<Folded, kFoldedFilters>,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
