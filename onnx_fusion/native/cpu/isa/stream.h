// Stores that go past the caches, where the ISA has them; else they are plain ones.
#pragma once

#include "cpu/isa/lanes.h"

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int64_t kLine = 64;  // bytes; a line that is not written as a whole is slow
[[maybe_unused]] constexpr int64_t kLineFloats = kLine / 4;

// What comes 2 KiB behind p will be read: while stores go past the caches the machine fetches less
// ahead by itself.
[[maybe_unused]] inline void fetch(const float* p) { __builtin_prefetch(p + 512); }

[[maybe_unused]] inline bool begins_line(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % kLine == 0;
}

// p begins a vector's multiple of bytes.
template <bool Past>
[[maybe_unused]] inline void put(float* p, Floats v) {
  if constexpr (Past) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE__)
    _mm_stream_ps(p, (__m128)v);
#else
    store(p, v);
#endif
  } else {
    store(p, v);
  }
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
