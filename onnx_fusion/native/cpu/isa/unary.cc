#include "cpu/isa/functors.h"
#include "cpu/isa/vector_math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <class F, class T>
void unary(void* out, const void* a, const void*, const void*, int64_t n) {
  using R = Stored<decltype(F::apply(T{}, T{}))>;
  R* o = static_cast<R*>(out);
  const T* x = static_cast<const T*>(a);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = static_cast<R>(F::apply(x[i], T{}));
}

// sin and cos of arguments too large for the fast reduction go to libm.
template <class F, float (*Exact)(float)>
void periodic(void* out, const void* a, const void*, const void*, int64_t n) {
  const float* x = static_cast<const float*>(a);
  float* o = static_cast<float*>(out);
  int32_t large = 0;
  for (int64_t i = 0; i < n; ++i) large |= !(__builtin_fabsf(x[i]) < kReducible);
  if (!large) return unary<F, float>(out, a, nullptr, nullptr, n);
  for (int64_t i = 0; i < n; ++i) o[i] = Exact(x[i]);
}

struct VectorExp {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_exp(a); }
};
struct VectorSigmoid {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_sigmoid(a); }
};
struct VectorTanh {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_tanh(a); }
};
struct VectorErf {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_erf(a); }
};

template <class F>
void vectors(void* out, const void* a, const void*, const void*, int64_t n) {
  each_vector(static_cast<float*>(out), static_cast<const float*>(a), n,
              [](Floats x) __attribute__((always_inline)) { return F::of(x); });
}

float exact_sin(float a) { return __builtin_sinf(a); }
float exact_cos(float a) { return __builtin_cosf(a); }

template <class F, unsigned Types>
void set(Pass* row) {
  if constexpr (Types & kF) {
    row[0] = unary<F, float>;
    row[1] = unary<F, double>;
  }
  if constexpr (Types & kI) {
    row[2] = unary<F, int32_t>;
    row[3] = unary<F, int64_t>;
  }
  if constexpr (Types & kB) row[4] = unary<F, uint8_t>;
}

template <int Arity, class F, unsigned Types>
void set_if(Kernels* k, Op op) {
  if constexpr (Arity == 1) set<F, Types>(k->unary[static_cast<int>(op)]);
}

}  // namespace

void fill_unary(Kernels* k) {
#define X(name, arity, types, result, expression) \
  set_if<arity, F_##name, k##types>(k, Op::op_##name);
  ONNX_FUSION_ELEMENTWISE(X)
#undef X
  k->unary[static_cast<int>(Op::op_exp)][0] = vectors<VectorExp>;
  k->unary[static_cast<int>(Op::op_sigmoid)][0] = vectors<VectorSigmoid>;
  k->unary[static_cast<int>(Op::op_tanh)][0] = vectors<VectorTanh>;
  k->unary[static_cast<int>(Op::op_erf)][0] = vectors<VectorErf>;
  k->unary[static_cast<int>(Op::op_sin)][0] = periodic<F_sin, exact_sin>;
  k->unary[static_cast<int>(Op::op_cos)][0] = periodic<F_cos, exact_cos>;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
