// Equally distant places, addressed with few registers.
#pragma once

#include "cpu/isa/product.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <typename Float>
inline Float* hidden(Float* p) {
  hide(p);
  return p;
}

// Places that lie `step` floats apart, of which 0 to 8 are addressed: by one pointer and few
// factors of the step, where the compiler would keep, or compute, a pointer to each.
class Places {
 public:
  explicit Places(int64_t step)
      : one_(step * kBytes), three_(3 * one_), five_(5 * one_), seven_(7 * one_) {
    hide(one_);
    hide(three_);
    hide(five_);
    hide(seven_);
  }
  template <typename Float>
  Float* at(Float* first, int i) const {
    const int64_t bytes = i == 3   ? three_
                          : i == 5 ? five_
                          : i == 6 ? 2 * three_
                          : i == 7 ? seven_
                                   : i * one_;
    return reinterpret_cast<Float*>(reinterpret_cast<intptr_t>(first) + bytes);
  }

 private:
  static constexpr int64_t kBytes = sizeof(float);
  int64_t one_, three_, five_, seven_;
};

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
