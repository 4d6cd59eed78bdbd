// Activations that are several instructions, in one pass.
#include "cpu/isa/activation_math.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

struct Softplus {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_softplus(a); }
};
struct TanhSoftplus {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_tanh_softplus(a); }
};
struct Mish {
  ONNX_FUSION_INLINE Floats of(Floats a) { return a * v_tanh_softplus(a); }
};
struct Silu {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_silu(a); }
};

template <class F>
void vectors(void* out, const void* a, const void*, const void*, int64_t n) {
  each_vector(static_cast<float*>(out), static_cast<const float*>(a), n,
              [](Floats x) __attribute__((always_inline)) { return F::of(x); });
}

struct Tanh {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_tanh(a); }
};
struct Erf {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_erf(a); }
};
struct Sigmoid {
  ONNX_FUSION_INLINE Floats of(Floats a) { return v_sigmoid(a); }
};

// f(a * b[0]) + c[0], or f(a / b[0]) + c[0] with a quotient rounded as division rounds it.
template <class F, bool Divides>
void shifted(void* out, const void* a, const void* b, const void* c, int64_t n) {
  const float scale = *static_cast<const float*>(b);
  const Divisor by(scale);
  const Floats factor = broadcast(scale), shift = broadcast(*static_cast<const float*>(c));
  float* const o = static_cast<float*>(out);
  const float* const x = static_cast<const float*>(a);
  if (!Divides) {
    each_vector(o, x, n,
                [&](Floats v) __attribute__((always_inline)) { return F::of(v * factor) + shift; });
  } else if (by.divides) {
    each_vector(o, x, n,
                [&](Floats v) __attribute__((always_inline)) { return F::of(v / factor) + shift; });
  } else {
    each_vector(o, x, n, [&](Floats v) __attribute__((always_inline)) {
      return F::of(by.quotient(v)) + shift;
    });
  }
}

template <class F>
void set(Pass* row) {
  row[0] = shifted<F, false>;
  row[1] = shifted<F, true>;
}

}  // namespace

void fill_activate(Kernels* k) {
  k->silu = vectors<Silu>;
  k->softplus = vectors<Softplus>;
  k->tanh_softplus = vectors<TanhSoftplus>;
  k->mish = vectors<Mish>;
  set<Tanh>(k->shifted[0]);
  set<Erf>(k->shifted[1]);
  set<Sigmoid>(k->shifted[2]);
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
