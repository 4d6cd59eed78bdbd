// Superinstructions: two cheap f32 instructions in one pass, and a few longer idioms.
#include "cpu/isa/vector_math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <int Which>
ONNX_FUSION_INLINE float step(float a, float b) {
  if constexpr (Which == kChainAdd) return a + b;
  if constexpr (Which == kChainSub) return a - b;
  if constexpr (Which == kChainRsub) return b - a;
  if constexpr (Which == kChainMul) return a * b;
  if constexpr (Which == kChainMin) return m_min(a, b);
  if constexpr (Which == kChainMax) return m_max(a, b);
  if constexpr (Which == kChainAtMost) return b < a ? b : a;
  if constexpr (Which == kChainAtLeast) return b > a ? b : a;
}

template <int Inner, int Outer, int Splats>
void chain(void* out, const void* a, const void* b, const void* c, int64_t n) {
  float* o = static_cast<float*>(out);
  const float* x = static_cast<const float*>(a);
  const float* y = static_cast<const float*>(b);
  const float* z = static_cast<const float*>(c);
  const float y0 = *y, z0 = *z;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    o[i] = step<Outer>(step<Inner>(x[i], Splats & 1 ? y0 : y[i]), Splats & 2 ? z0 : z[i]);
  }
}

template <int Inner, int Outer>
void set(Kernels* k) {
  k->chain[Inner][Outer][0] = chain<Inner, Outer, 0>;
  k->chain[Inner][Outer][1] = chain<Inner, Outer, 1>;
  k->chain[Inner][Outer][2] = chain<Inner, Outer, 2>;
  k->chain[Inner][Outer][3] = chain<Inner, Outer, 3>;
}

template <int Inner>
void set_inner(Kernels* k) {
  set<Inner, 0>(k);
  set<Inner, 1>(k);
  set<Inner, 2>(k);
  set<Inner, 3>(k);
  set<Inner, 4>(k);
  set<Inner, 5>(k);
  set<Inner, 6>(k);
  set<Inner, 7>(k);
}

template <int Splat>
void exp_sub(void* out, const void* a, const void* b, const void*, int64_t n) {
  float* o = static_cast<float*>(out);
  const float* x = static_cast<const float*>(a);
  const float* y = static_cast<const float*>(b);
  if (Splat) {
    const Floats first = broadcast(*y);
    each_vector(o, x, n, [&](Floats v) __attribute__((always_inline)) { return v_exp(v - first); });
    return;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = m_exp(x[i] - y[i]);
}

void clip(void* out, const void* a, const void* b, const void* c, int64_t n) {
  float* o = static_cast<float*>(out);
  const float* x = static_cast<const float*>(a);
  const float lo = *static_cast<const float*>(b), hi = *static_cast<const float*>(c);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = step<kChainAtMost>(step<kChainAtLeast>(x[i], lo), hi);
}

}  // namespace

void fill_chain(Kernels* k) {
  set_inner<0>(k);
  set_inner<1>(k);
  set_inner<2>(k);
  set_inner<3>(k);
  set_inner<4>(k);
  set_inner<5>(k);
  set_inner<6>(k);
  set_inner<7>(k);
  k->clip = clip;
  k->exp_sub[0] = exp_sub<0>;
  k->exp_sub[1] = exp_sub<1>;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
