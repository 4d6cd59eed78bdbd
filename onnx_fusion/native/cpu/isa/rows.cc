// Whole idioms over rows: softmax, centring with the sum of squares, scaling by a value of the row.
#include "cpu/isa/vector_math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int64_t kBlock = 4096;  // summed on its own, so that errors do not grow with the length

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));

struct Add {
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return a + b;
  }
};
struct Larger {  // NaN may get lost
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return a > b ? a : b;
  }
  ONNX_FUSION_INLINE Floats join(Floats a, Floats b) { return most(a, b); }
};

template <class F>
ONNX_FUSION_INLINE float across(Floats v) {
#if defined(__AVX512F__)
  const Eight v8 = F::join(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#elif defined(__AVX2__)
  const Eight v8 = v;
#endif
#if defined(__AVX2__)
  const Four half = F::join(__builtin_shufflevector(v8, v8, 0, 1, 2, 3),
                            __builtin_shufflevector(v8, v8, 4, 5, 6, 7));
#else
  const Four half = v;
#endif
  const Four pair = F::join(half, __builtin_shuffle(half, FourInts{2, 3, 0, 1}));
  return F::join(pair[0], pair[1]);
}

// The first n lanes of a vector, the others as `rest`.
ONNX_FUSION_INLINE Floats load_some(const float* p, int64_t n, float rest) {
  return load_where(p, mask_of((1u << n) - 1u), broadcast(rest));
}
ONNX_FUSION_INLINE void store_some(float* p, Floats v, int64_t n) {
  float lane[kLanes];
  store(lane, v);
  __builtin_memcpy(p, lane, static_cast<size_t>(n) * sizeof(float));
}

// f(vector at i) joined over [0, n); f(i, n) where n lanes are left, which gives `rest` in the others.
template <class F, class Whole, class Part>
ONNX_FUSION_INLINE float fold(int64_t n, float rest, const Whole& whole, const Part& part) {
  float result = rest;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = n - begin < kBlock ? n : begin + kBlock;
    Floats acc[4] = {broadcast(rest), broadcast(rest), broadcast(rest), broadcast(rest)};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) acc[v] = F::join(acc[v], whole(i + v * kLanes));
    }
    for (; i + kLanes <= end; i += kLanes) acc[0] = F::join(acc[0], whole(i));
    if (i < end) acc[1] = F::join(acc[1], part(i, end - i));
    const Floats all = F::join(F::join(acc[0], acc[1]), F::join(acc[2], acc[3]));
    result = F::join(result, across<F>(all));
  }
  return result;
}

ONNX_FUSION_INLINE float largest(const float* x, int64_t n) {
  return fold<Larger>(
      n, -kInf, [&](int64_t i) __attribute__((always_inline)) { return load(x + i); },
      [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        return load_some(x + i, left, -kInf);
      });
}

ONNX_FUSION_INLINE float total(const float* x, int64_t n) {
  return fold<Add>(
      n, 0.0f, [&](int64_t i) __attribute__((always_inline)) { return load(x + i); },
      [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        return load_some(x + i, left, 0.0f);
      });
}

template <class F>
ONNX_FUSION_INLINE void each(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    f(i, int64_t{kLanes});
    f(i + kLanes, int64_t{kLanes});
  }
  for (; i < n; i += kLanes) f(i, n - i < kLanes ? n - i : int64_t{kLanes});
}

ONNX_FUSION_INLINE Floats take(const float* p, int64_t n) {
  return n == kLanes ? load(p) : load_some(p, n, 0.0f);
}
ONNX_FUSION_INLINE void put(float* p, Floats v, int64_t n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store_some(p, v, n);
  }
}

// A few rows at a time, one step of all of them after another: what is reduced for one row is waited for
// while the others are.
template <bool Exact>
void softmax(void* out, const void* in, const void*, const void*, const void*, const void*,
             int64_t rows, int64_t n) {
  constexpr int64_t kGroup = 16;
  const int64_t group = n >= kBlock ? 1 : kBlock / n < kGroup ? kBlock / n : kGroup;
  float value[kGroup];
  for (int64_t begin = 0; begin < rows; begin += group) {
    const int64_t count = rows - begin < group ? rows - begin : group;
    float* const o = static_cast<float*>(out) + begin * n;
    const float* const x = static_cast<const float*>(in) + begin * n;
    for (int64_t r = 0; r < count; ++r) value[r] = largest(x + r * n, n);
    for (int64_t r = 0; r < count; ++r) {
      const Floats top = broadcast(value[r]);
      const float* const from = x + r * n;
      float* const to = o + r * n;
      value[r] = fold<Add>(
          n, 0.0f,
          [&](int64_t i) __attribute__((always_inline)) {
            const Floats e = v_exp_negative(load(from + i) - top);
            store(to + i, e);
            return e;
          },
          [&](int64_t i, int64_t left) __attribute__((always_inline)) {
            const Floats e = v_exp_negative(load_some(from + i, left, -kInf) - top);
            store_some(to + i, e, left);
            return e;
          });
    }
    for (int64_t r = 0; r < count; ++r) {
      float* const to = o + r * n;
      const Divisor by(value[r]);
      each(n, [&](int64_t i, int64_t k) __attribute__((always_inline)) {
        const Floats e = take(to + i, k);
        put(to + i, by.divides ? e / by.d : Exact ? by.share(e) : e * by.r, k);
      });
    }
  }
}

// out = in - mean, squares[row] = the sum of its squares; count[0] is what the sum is divided by.
void center(void* out, const void* in, const void* squares, const void* count, const void*,
            const void*, int64_t rows, int64_t n) {
  float* o = static_cast<float*>(out);
  const float* x = static_cast<const float*>(in);
  float* q = static_cast<float*>(const_cast<void*>(squares));
  const float divisor = *static_cast<const float*>(count);
  for (int64_t row = 0; row < rows; ++row, o += n, x += n) {
    const Floats mean = broadcast(total(x, n) / divisor);
    q[row] = fold<Add>(
        n, 0.0f,
        [&](int64_t i) __attribute__((always_inline)) {
          const Floats c = load(x + i) - mean;
          store(o + i, c);
          return c * c;
        },
        [&](int64_t i, int64_t left) __attribute__((always_inline)) {
          store_some(o + i, load_some(x + i, left, 0.0f) - mean, left);
          const Floats c = load_some(o + i, left, 0.0f);
          return c * c;
        });
  }
}

// squares[row] = the sum of the squares of in - mean, which is means[row].
void moments(void* squares, const void* in, const void* means, const void* count, const void*,
             const void*, int64_t rows, int64_t n) {
  const float* x = static_cast<const float*>(in);
  float* const q = static_cast<float*>(squares);
  float* const m = static_cast<float*>(const_cast<void*>(means));
  const float divisor = *static_cast<const float*>(count);
  for (int64_t row = 0; row < rows; ++row, x += n) {
    m[row] = total(x, n) / divisor;
    const Floats mean = broadcast(m[row]);
    q[row] = fold<Add>(
        n, 0.0f,
        [&](int64_t i) __attribute__((always_inline)) {
          const Floats c = load(x + i) - mean;
          return c * c;
        },
        [&](int64_t i, int64_t left) __attribute__((always_inline)) {
          const Floats c = load_where(x + i, mask_of((1u << left) - 1u), mean) - mean;
          return c * c;
        });
  }
}

// out = (in - means[row]) (by values[row]) * scale + bias, some of which may be missing.
template <bool Centred, int How, bool Biased, bool Once>
void scale(void* out, const void* in, const void* values, const void* scales, const void* biases,
           const void* means, int64_t rows, int64_t n) {
  float* o = static_cast<float*>(out);
  const float* x = static_cast<const float*>(in);
  const float* value = static_cast<const float*>(values);
  const float* mean = static_cast<const float*>(means);
  const float* g = static_cast<const float*>(scales);
  const float* b = static_cast<const float*>(biases);
  for (int64_t row = 0; row < rows; ++row, o += n, x += n) {
    const Divisor by(value[row]);
    const Floats middle = broadcast(Centred ? mean[row] : 0.0f);
    const auto pass = [&](const auto& scaled) __attribute__((always_inline)) {
      each(n, [&](int64_t i, int64_t k) __attribute__((always_inline)) {
        Floats v = take(x + i, k);
        if constexpr (Centred) v = v - middle;
        v = scaled(v) * take(g + i, k);
        if constexpr (Biased) v = v + take(b + i, k);
        put(o + i, v, k);
      });
    };
    if (How == kScalesTimes) {
      pass([&](Floats v) __attribute__((always_inline)) { return v * by.d; });
    } else if (by.divides) {
      pass([&](Floats v) __attribute__((always_inline)) { return v / by.d; });
    } else if (How == kScalesAbout) {
      pass([&](Floats v) __attribute__((always_inline)) { return v * by.r; });
    } else {
      pass([&](Floats v) __attribute__((always_inline)) { return by.quotient(v); });
    }
    if constexpr (!Once) g += n;
    if constexpr (!Once && Biased) b += n;
  }
}

template <bool Centred, int How>
void set_scale(Kernels* k) {
  k->scale[Centred][How][0][0] = scale<Centred, How, false, false>;
  k->scale[Centred][How][0][1] = scale<Centred, How, false, true>;
  k->scale[Centred][How][1][0] = scale<Centred, How, true, false>;
  k->scale[Centred][How][1][1] = scale<Centred, How, true, true>;
  if constexpr (How + 1 < kScalings) set_scale<Centred, How + 1>(k);
}

}  // namespace

void fill_rows(Kernels* k) {
  k->softmax[0] = softmax<false>;
  k->softmax[1] = softmax<true>;
  k->center = center;
  k->moments = moments;
  set_scale<false, 0>(k);
  set_scale<true, 0>(k);
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
