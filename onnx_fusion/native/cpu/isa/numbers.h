// The largest and the smallest of vectors without NaN, and what finds those that have one.
#pragma once

#include "cpu/isa/joins.h"
#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Of what is not NaN: one machine instruction each.
struct MaxNumber : Max {
  static constexpr bool kChecks = true;
  ONNX_FUSION_INLINE Floats join(Floats a, Floats b) { return most(a, b); }
  ONNX_FUSION_INLINE float join(float a, float b) { return a > b ? a : b; }
};
struct MinNumber : Min {
  static constexpr bool kChecks = true;
  ONNX_FUSION_INLINE Floats join(Floats a, Floats b) { return least(a, b); }
  ONNX_FUSION_INLINE float join(float a, float b) { return a < b ? a : b; }
};

// Whether all that was added to `seen` is finite.
[[maybe_unused]] inline bool all_finite(Floats seen) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)seen, (__m512)seen, _CMP_UNORD_Q) == 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)seen, (__m256)seen, _CMP_UNORD_Q)) == 0;
#elif defined(__SSE__)
  return _mm_movemask_ps(_mm_cmpunord_ps((__m128)seen, (__m128)seen)) == 0;
#else
  const Ints rubbish = seen != seen;
  int64_t words[sizeof rubbish / sizeof(int64_t)], any = 0;
  __builtin_memcpy(words, &rubbish, sizeof rubbish);
  for (const int64_t word : words) any |= word;
  return any == 0;
#endif
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
