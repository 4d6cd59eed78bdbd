// Passes that move elements of 1, 2, 4 or 8 bytes without looking at them.
#include "cpu/isa/math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <class T, int Splats>
void where(void* out, const void* condition, const void* a, const void* b, int64_t n) {
  T* o = static_cast<T*>(out);
  const uint8_t* c = static_cast<const uint8_t*>(condition);
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  const T x0 = *x, y0 = *y;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T p = Splats & 1 ? x0 : x[i], q = Splats & 2 ? y0 : y[i];
    o[i] = c[i] ? p : q;
  }
}

template <class T>
void fill(void* out, const void* value, int64_t n) {
  T* o = static_cast<T*>(out);
  const T v = *static_cast<const T*>(value);
  for (int64_t i = 0; i < n; ++i) o[i] = v;
}

template <class T>
void pick(void* out, const void* in, int64_t stride, int64_t n) {
  T* __restrict o = static_cast<T*>(out);
  const T* __restrict x = static_cast<const T*>(in);
  if (stride == 2) {
    for (int64_t i = 0; i < n; ++i) o[i] = x[2 * i];
  } else {
    for (int64_t i = 0; i < n; ++i) o[i] = x[i * stride];
  }
}

template <class T>
void spread(void* out, int64_t stride, const void* in, int64_t n) {
  T* __restrict o = static_cast<T*>(out);
  const T* __restrict x = static_cast<const T*>(in);
  for (int64_t i = 0; i < n; ++i) o[i * stride] = x[i];
}

template <class T>
void gather(void* out, const void* in, const int64_t* offsets, const void* otherwise, int64_t n) {
  T* o = static_cast<T*>(out);
  const T* x = static_cast<const T*>(in);
  const T v = *static_cast<const T*>(otherwise);
  for (int64_t i = 0; i < n; ++i) o[i] = offsets[i] < 0 ? v : x[offsets[i]];
}

template <class T>
void repeat(void* out, const void* in, int64_t rows, int64_t length) {
  T* __restrict o = static_cast<T*>(out);
  const T* __restrict x = static_cast<const T*>(in);
  if (length == 2) {
    for (int64_t r = 0; r < rows; ++r) o[2 * r] = o[2 * r + 1] = x[r];
    return;
  }
  if (length == 4) {
    for (int64_t r = 0; r < rows; ++r) {
      o[4 * r] = o[4 * r + 1] = o[4 * r + 2] = o[4 * r + 3] = x[r];
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r, o += length) {
    const T v = x[r];
    for (int64_t i = 0; i < length; ++i) o[i] = v;
  }
}

void iota(int64_t* out, int64_t first, int64_t step, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = first + i * step;
}

template <class T>
void set(Kernels* k, int size) {
  k->where[size][0] = where<T, 0>;
  k->where[size][1] = where<T, 1>;
  k->where[size][2] = where<T, 2>;
  k->where[size][3] = where<T, 3>;
  k->fill[size] = fill<T>;
  k->pick[size] = pick<T>;
  k->spread[size] = spread<T>;
  k->gather[size] = gather<T>;
  k->repeat[size] = repeat<T>;
}

}  // namespace

void fill_move(Kernels* k) {
  set<uint8_t>(k, 0);
  set<uint16_t>(k, 1);
  set<uint32_t>(k, 2);
  set<uint64_t>(k, 3);
  k->iota = iota;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
