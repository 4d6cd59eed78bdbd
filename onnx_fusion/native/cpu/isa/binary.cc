#include "cpu/isa/functors.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <class F, class T, int S>
void binary(void* out, const void* a, const void* b, const void*, int64_t n) {
  using R = Stored<decltype(F::apply(T{}, T{}))>;
  R* o = static_cast<R*>(out);
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  if constexpr (S == kSplatNone) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) o[i] = static_cast<R>(F::apply(x[i], y[i]));
  } else if constexpr (S == kSplatSecond) {
    const T second = y[0];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) o[i] = static_cast<R>(F::apply(x[i], second));
  } else {
    const T first = x[0];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) o[i] = static_cast<R>(F::apply(first, y[i]));
  }
}

// Small whole exponents are multiplied out; the rest is libm's.
template <class T>
void power(void* out, const void* a, const void* b, const void*, int64_t n) {
  const T* x = static_cast<const T*>(a);
  T* o = static_cast<T*>(out);
  const T exponent = *static_cast<const T*>(b);
  if (exponent == T{2}) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) o[i] = x[i] * x[i];
  } else if (exponent == T{3}) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) o[i] = x[i] * x[i] * x[i];
  } else if (exponent == T{-1}) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) o[i] = T{1} / x[i];
  } else {
    for (int64_t i = 0; i < n; ++i) o[i] = m_pow(x[i], exponent);
  }
}

template <class F, class T>
void set_type(Pass* row) {
  row[kSplatNone] = binary<F, T, kSplatNone>;
  row[kSplatSecond] = binary<F, T, kSplatSecond>;
  row[kSplatFirst] = binary<F, T, kSplatFirst>;
}

template <int Arity, class F, unsigned Types>
void set_if(Kernels* k, Op op) {
  if constexpr (Arity == 2) {
    Pass(*row)[3] = k->binary[static_cast<int>(op)];
    if constexpr (Types & kF) {
      set_type<F, float>(row[0]);
      set_type<F, double>(row[1]);
    }
    if constexpr (Types & kI) {
      set_type<F, int32_t>(row[2]);
      set_type<F, int64_t>(row[3]);
    }
    if constexpr (Types & kB) set_type<F, uint8_t>(row[4]);
  }
}

}  // namespace

void fill_binary(Kernels* k) {
#define X(name, arity, types, result, expression) \
  set_if<arity, F_##name, k##types>(k, Op::op_##name);
  ONNX_FUSION_ELEMENTWISE(X)
#undef X
  k->binary[static_cast<int>(Op::op_pow)][0][kSplatSecond] = power<float>;
  k->binary[static_cast<int>(Op::op_pow)][1][kSplatSecond] = power<double>;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
