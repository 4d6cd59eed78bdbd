// Reductions of rows (along memory) and of lanes (across it). Sums of floats are kept short: many
// accumulators, blocks, and double where rows are joined.
#include "cpu/isa/math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

struct Sum {
  template <class T>
  static T nothing() {
    return T{0};
  }
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return m_add(a, b);
  }
};
struct Max {
  template <class T>
  static T nothing() {
    if constexpr (std::is_floating_point_v<T>)
      return -static_cast<T>(__builtin_inf());
    else
      return std::numeric_limits<T>::min();
  }
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return m_max(a, b);
  }
};
struct Min {
  template <class T>
  static T nothing() {
    if constexpr (std::is_floating_point_v<T>)
      return static_cast<T>(__builtin_inf());
    else
      return std::numeric_limits<T>::max();
  }
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return m_min(a, b);
  }
};
struct Prod {
  template <class T>
  static T nothing() {
    return T{1};
  }
  template <class T>
  ONNX_FUSION_INLINE T join(T a, T b) {
    return m_mul(a, b);
  }
};

template <class F, class T>
T reduce_row(const T* x, int64_t n) {
  constexpr int kWidth = kBytes / static_cast<int>(sizeof(T)) * 4;
  T result = F::template nothing<T>();
  if (n < kWidth) {
    for (int64_t i = 0; i < n; ++i) result = F::join(result, x[i]);
    return result;
  }
  T acc[kWidth];
  for (int j = 0; j < kWidth; ++j) acc[j] = x[j];
  int64_t i = kWidth;
  for (; i + kWidth <= n; i += kWidth) {
#pragma GCC ivdep
    for (int j = 0; j < kWidth; ++j) acc[j] = F::join(acc[j], x[i + j]);
  }
  for (int w = kWidth / 2; w > 0; w /= 2) {
    for (int j = 0; j < w; ++j) acc[j] = F::join(acc[j], acc[j + w]);
  }
  for (; i < n; ++i) result = F::join(result, x[i]);
  return F::join(acc[0], result);
}

template <class F, class T>
void rows(void* out, const void* in, int64_t rows, int64_t length) {
  constexpr int64_t kBlock = 4096;
  T* o = static_cast<T*>(out);
  const T* x = static_cast<const T*>(in);
  for (int64_t r = 0; r < rows; ++r, x += length) {
    T result = reduce_row<F>(x, length < kBlock ? length : kBlock);
    for (int64_t i = kBlock; i < length; i += kBlock) {
      result = F::join(result, reduce_row<F>(x + i, length - i < kBlock ? length - i : kBlock));
    }
    o[r] = result;
  }
}

template <class F, class T>
void join(void* acc, const void* in, int64_t n) {
  T* a = static_cast<T*>(acc);
  const T* x = static_cast<const T*>(in);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) a[i] = F::join(a[i], x[i]);
}

// Columns a few vectors at a time, so that their accumulators stay in registers.
template <class F, class T>
void lanes(void* out, const void* in, int64_t rows, int64_t lanes) {
  constexpr int kWidth = kBytes / static_cast<int>(sizeof(T)) * 4;
  T* o = static_cast<T*>(out);
  const T* x = static_cast<const T*>(in);
  int64_t j = 0;
  for (; j + kWidth <= lanes; j += kWidth) {
    T acc[kWidth];
    for (int k = 0; k < kWidth; ++k) acc[k] = F::template nothing<T>();
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = x + r * lanes + j;
#pragma GCC ivdep
      for (int k = 0; k < kWidth; ++k) acc[k] = F::join(acc[k], row[k]);
    }
    for (int k = 0; k < kWidth; ++k) o[j + k] = acc[k];
  }
  for (int64_t k = j; k < lanes; ++k) o[k] = F::template nothing<T>();
  for (int64_t r = 0; r < rows && j < lanes; ++r) {
    for (int64_t k = j; k < lanes; ++k) o[k] = F::join(o[k], x[r * lanes + k]);
  }
}

template <class F, class T>
void set_type(ReducePasses* row) {
  row->rows = rows<F, T>;
  row->lanes = lanes<F, T>;
  row->join = join<F, T>;
}

template <class F>
void set(ReducePasses* row) {
  set_type<F, float>(&row[0]);
  set_type<F, double>(&row[1]);
  set_type<F, int32_t>(&row[2]);
  set_type<F, int64_t>(&row[3]);
}

}  // namespace

void fill_reduce(Kernels* k) {
  set<Sum>(k->reduce[0]);
  set<Max>(k->reduce[1]);
  set<Min>(k->reduce[2]);
  set<Prod>(k->reduce[3]);
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
