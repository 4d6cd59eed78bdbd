// Reductions of f32 with the accumulators of a few vectors in registers: over a window of memory,
// and along rows.
#include "cpu/isa/joins.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Vectors of few lanes, and every second element of one and of what is N - 1 behind it. (GCC
// shuffles only vectors whose type depends on no template parameter.)
template <int N>
struct Few;
template <>
struct Few<4> {
  typedef float Vector __attribute__((vector_size(16)));
  typedef int32_t Lanes __attribute__((vector_size(16)));
  ONNX_FUSION_INLINE Vector even(Vector low, Vector high) {
    return __builtin_shuffle(low, high, Lanes{0, 2, 5, 7});
  }
};
#if defined(__AVX2__)
template <>
struct Few<8> {
  typedef float Vector __attribute__((vector_size(32)));
  typedef int32_t Lanes __attribute__((vector_size(32)));
  ONNX_FUSION_INLINE Vector even(Vector low, Vector high) {
    return __builtin_shuffle(low, high, Lanes{0, 2, 4, 6, 9, 11, 13, 15});
  }
};
#endif

// Elements 0, step, 2 * step, ... and none beyond.
template <int Stride>
ONNX_FUSION_INLINE Floats load_every(const float* p, int64_t step) {
  if constexpr (Stride == 1) {
    return load(p);
  } else if constexpr (Stride == 2) {
    return load_even_all(p);
  } else {
    Floats v;
    for (int j = 0; j < kLanes; ++j) v[j] = p[j * step];
    return v;
  }
}

// Joins follow each other at a latency of some cycles, so few vectors are joined in several
// strands.
template <class F, int Stride, int Vectors>
ONNX_FUSION_INLINE void block(float* out, const float* base, const int64_t* offsets, int64_t count,
                              int64_t stride) {
  constexpr int kStrands = Vectors > 2 ? 1 : 4 / Vectors;
  Floats acc[kStrands][Vectors];
  const int64_t strands = count >= 2 * kStrands ? kStrands : 1;
  const auto at = [&](int64_t k, int v) {
    return load_every<Stride>(base + offsets[k] + v * kLanes * stride, stride);
  };
#pragma GCC unroll 4
  for (int s = 0; s < kStrands; ++s) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[s][v] = at(s < strands ? s : 0, v);
  }
  int64_t k = strands;
  if (kStrands > 1 && strands > 1) {
#pragma GCC unroll 1
    for (; k + kStrands <= count; k += kStrands) {
#pragma GCC unroll 4
      for (int s = 0; s < kStrands; ++s) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) acc[s][v] = F::join(acc[s][v], at(k + s, v));
      }
    }
#pragma GCC unroll 4
    for (int s = 1; s < kStrands; ++s) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) acc[0][v] = F::join(acc[0][v], acc[s][v]);
    }
  }
#pragma GCC unroll 1
  for (; k < count; ++k) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[0][v] = F::join(acc[0][v], at(k, v));
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) store(out + v * kLanes, acc[0][v]);
}

// Fewer lanes than a vector has: shorter vectors, the last one again covering the rest.
template <class F, int Stride, int N>
ONNX_FUSION_INLINE void narrow(float* out, const float* base, const int64_t* offsets, int64_t count,
                               int64_t lanes) {
  using Short = typename Few<N>::Vector;
  for (int64_t j = 0;; j = lanes - N) {
    const auto at = [&](int64_t k) {
      const float* const x = base + offsets[k] + j * Stride;
      Short low, high;
      __builtin_memcpy(&low, x, sizeof low);
      if constexpr (Stride == 2) {
        __builtin_memcpy(&high, x + N - 1, sizeof high);
        low = Few<N>::even(low, high);
      }
      return low;
    };
    Short acc = at(0);
    int64_t k = 1;
    if (count >= 8) {
      Short b = at(1), c = at(2), d = at(3);
#pragma GCC unroll 1
      for (k = 4; k + 4 <= count; k += 4) {
        acc = F::join(acc, at(k));
        b = F::join(b, at(k + 1));
        c = F::join(c, at(k + 2));
        d = F::join(d, at(k + 3));
      }
      acc = F::join(F::join(acc, b), F::join(c, d));
    }
#pragma GCC unroll 1
    for (; k < count; ++k) acc = F::join(acc, at(k));
    __builtin_memcpy(out + j, &acc, sizeof acc);
    if (j == lanes - N) return;
  }
}

template <class F, int Stride>
void lanes_of(float* out, const float* base, const int64_t* offsets, int64_t count, int64_t stride,
              int64_t lanes) {
  if constexpr (Stride != 0) {
    if constexpr (kLanes > 8) {
      if (lanes >= 8 && lanes < kLanes) {
        return narrow<F, Stride, 8>(out, base, offsets, count, lanes);
      }
    }
    if constexpr (kLanes > 4) {
      if (lanes >= 4 && lanes < 8) return narrow<F, Stride, 4>(out, base, offsets, count, lanes);
    }
  }
  int64_t j = 0;
  for (; j + kLanes * 4 <= lanes; j += kLanes * 4) {
    block<F, Stride, 4>(out + j, base + j * stride, offsets, count, stride);
  }
  const int64_t vectors = (lanes - j) / kLanes;
  if (vectors == 3) block<F, Stride, 3>(out + j, base + j * stride, offsets, count, stride);
  if (vectors == 2) block<F, Stride, 2>(out + j, base + j * stride, offsets, count, stride);
  if (vectors == 1) block<F, Stride, 1>(out + j, base + j * stride, offsets, count, stride);
  j += vectors * kLanes;
  if (j < lanes && lanes >= kLanes) {
    j = lanes - kLanes;  // the last whole vector again covers the rest
    return block<F, Stride, 1>(out + j, base + j * stride, offsets, count, stride);
  }
  for (; j < lanes; ++j) {
    float acc = base[offsets[0] + j * stride];
#pragma GCC unroll 1
    for (int64_t k = 1; k < count; ++k) acc = F::join(acc, base[offsets[k] + j * stride]);
    out[j] = acc;
  }
}

template <class F>
void window(float* out, const float* base, const int64_t* offsets, int64_t count, int64_t stride,
            int64_t lanes) {
  if (stride == 1) return lanes_of<F, 1>(out, base, offsets, count, stride, lanes);
  if (stride == 2) return lanes_of<F, 2>(out, base, offsets, count, stride, lanes);
  lanes_of<F, 0>(out, base, offsets, count, stride, lanes);
}

struct Itself {
  template <class T>
  ONNX_FUSION_INLINE T of(T a) {
    return a;
  }
};
struct Square {
  template <class T>
  ONNX_FUSION_INLINE T of(T a) {
    return a * a;
  }
};

// Blocks of 4096 are reduced on their own, so that a sum's error does not grow with its length.
template <class F, class G>
float row(const float* x, int64_t n) {
  float result = G::of(x[0]);
  int64_t i = 1;
  if (n >= kLanes) {
    Floats acc[4] = {G::of(load(x)), G::of(load(x)), G::of(load(x)), G::of(load(x))};
    i = kLanes;
    if (n >= kLanes * 4) {
      for (int v = 1; v < 4; ++v) acc[v] = G::of(load(x + v * kLanes));
      for (i = kLanes * 4; i + kLanes * 4 <= n; i += kLanes * 4) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) acc[v] = F::join(acc[v], G::of(load(x + i + v * kLanes)));
      }
      acc[0] = F::join(F::join(acc[0], acc[1]), F::join(acc[2], acc[3]));
    }
    for (; i + kLanes <= n; i += kLanes) acc[0] = F::join(acc[0], G::of(load(x + i)));
    result = across<F>(acc[0]);
  }
#pragma GCC unroll 1
  for (; i < n; ++i) result = F::join(result, G::of(x[i]));
  return result;
}

template <class F, class G>
void rows(void* out, const void* in, int64_t rows, int64_t length) {
  constexpr int64_t kBlock = 4096;
  float* o = static_cast<float*>(out);
  const float* x = static_cast<const float*>(in);
  for (int64_t r = 0; r < rows; ++r, x += length) {
    float result = row<F, G>(x, length < kBlock ? length : kBlock);
    for (int64_t i = kBlock; i < length; i += kBlock) {
      result = F::join(result, row<F, G>(x + i, length - i < kBlock ? length - i : kBlock));
    }
    o[r] = result;
  }
}

}  // namespace

void fill_window(Kernels* k) {
  k->reduce[0][0].rows = rows<Sum, Itself>;
  k->squares.rows = rows<Sum, Square>;
  k->window[0] = window<Sum>;
  k->window[1] = window<Max>;
  k->window[2] = window<Min>;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
