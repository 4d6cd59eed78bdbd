// The largest or the smallest of each row of floats.
#include "cpu/isa/numbers.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// At least one vector; false if one of the elements is not finite.
template <class Number>
ONNX_FUSION_INLINE bool row(const float* x, int64_t n, float* out) {
  Floats a = load(x), b = a, seen = a * 0.0f, other{};
  int64_t i = kLanes;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Floats first = load(x + i), second = load(x + i + kLanes);
    a = Number::join(a, first);
    b = Number::join(b, second);
    seen += first * 0.0f;
    other += second * 0.0f;
  }
  for (; i < n; i += kLanes) {
    const Floats last = load(x + (i + kLanes <= n ? i : n - kLanes));  // covers the rest again
    a = Number::join(a, last);
    seen += last * 0.0f;
  }
  *out = across<Number>(Number::join(a, b));
  return all_finite(seen + other);
}

// F keeps NaN; Number is the same where there are none.
template <class F, class Number>
void rows(void* out, const void* in, int64_t rows, int64_t length) {
  float* const o = static_cast<float*>(out);
  const float* x = static_cast<const float*>(in);
  for (int64_t r = 0; r < rows; ++r, x += length) {
    if (length >= kLanes && row<Number>(x, length, o + r)) continue;
    Floats all = broadcast(x[0]);
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes) all = F::join(all, load(x + i));
    float result = all[0];
    for (int l = 1; l < kLanes; ++l) result = F::join(result, all[l]);
    for (; i < length; ++i) result = F::join(result, x[i]);
    o[r] = result;
  }
}

}  // namespace

void fill_extremes(Kernels* k) {
  k->reduce[1][0].rows = rows<Max, MaxNumber>;
  k->reduce[2][0].rows = rows<Min, MinNumber>;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
