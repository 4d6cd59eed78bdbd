// Activations that are several instructions, on whole vectors.
#pragma once

#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// log(1 + e) for e in [0, 1].
ONNX_FUSION_INLINE Floats v_log_one_plus(Floats e) {
  Floats p = e * 0.12376060336828232f + 0.8671842217445374f;
  p = p * e + 1.0f;
  Floats q = e * 0.031093433499336243f + 0.4740505516529083f;
  q = q * e + 1.3671822547912598f;
  q = q * e + 1.0f;
  return e * p / q;
}

ONNX_FUSION_INLINE Floats v_abs(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }

ONNX_FUSION_INLINE Floats v_softplus(Floats a) {
  return most(broadcast(0.0f), a) + v_log_one_plus(v_exp_negative(-v_abs(a)));
}

// tanh(log(1 + e)) = n / (n + 2) with n = e * (e + 2), e = exp(a); beyond 20 that is 1.
ONNX_FUSION_INLINE Floats v_tanh_softplus(Floats a) {
  const Floats e = v_exp(least(broadcast(20.0f), a));
  const Floats n = e * (e + 2.0f);
  return n / (n + 2.0f);
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
