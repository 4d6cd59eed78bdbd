// Whole idioms over rows: centring with the sum of squares, scaling by a value of the row.
#include "cpu/isa/row_math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

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
    store_some(p, v, static_cast<int>(n));
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
          const Floats c = load_where(x + i, mask_of((1u << left) - 1u), mean) - mean;
          store_some(o + i, c, static_cast<int>(left));
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
  k->center = center;
  k->moments = moments;
  set_scale<false, 0>(k);
  set_scale<true, 0>(k);
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
