// Convolution line by line, of which only the maximum over windows of 2 x 2 outputs is kept: even
// and odd pixels lie apart, so that a window's outputs are one lane of four vectors.
#include "cpu/isa/numbers.h"
#include "cpu/pooled_kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Four sums for each filter, four inputs, and weights.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kFilters = 6;
#else
constexpr int kFilters = 2;
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
void pooled_row(const PooledLine& t) {
  constexpr int kRest = sizeof(Rest) / sizeof(float);
  int64_t q = 0;
  for (; q + kRest < t.columns; q += kLanes) {
    const int count = t.columns - q < kLanes ? static_cast<int>(t.columns - q) : kLanes;
    pooled_vector<R, Along, Floats>(t, q, count);
  }
  if (q < t.columns) pooled_vector<R, Along, Rest>(t, q, static_cast<int>(t.columns - q));
}

template <int R>
void pooled_filters(const PooledLine& t) {
  if (t.along == 3) return pooled_row<R, 3>(t);
  pooled_row<R, 5>(t);
}

void run_row(const PooledLine& t, int filters) {
  switch (filters) {
    case 1: return pooled_filters<1>(t);
    case 2: return pooled_filters<2>(t);
#if defined(__AVX512F__) || defined(__aarch64__)
    case 3: return pooled_filters<3>(t);
    case 4: return pooled_filters<4>(t);
    case 5: return pooled_filters<5>(t);
    case 6: return pooled_filters<6>(t);
#endif
    default: break;
  }
}

}  // namespace

extern const PooledLineKernels pooled_line_kernels;
const PooledLineKernels pooled_line_kernels = {
    kLanes, sizeof(Rest) / sizeof(float), kFilters, split, run_row,
};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
