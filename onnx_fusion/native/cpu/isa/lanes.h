// One vector of floats on the ISA this file is compiled for, with masked loads for packing.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
[[maybe_unused]] constexpr int kRegisters = 32;
#else
[[maybe_unused]] constexpr int kRegisters = 16;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef float LooseFloats __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t LooseInts __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

[[maybe_unused]] inline Floats load(const float* p) {
  return *reinterpret_cast<const LooseFloats*>(p);
}
[[maybe_unused]] inline void store(float* p, Floats x) { *reinterpret_cast<LooseFloats*>(p) = x; }
[[maybe_unused]] inline Floats broadcast(float x) { return x - Floats{}; }

// The first `count` lanes alone, 0 < count < kLanes.
#if defined(__AVX512F__)
[[maybe_unused]] inline Floats load_some(const float* p, int count) {
  return (Floats)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p);
}
[[maybe_unused]] inline void store_some(float* p, Floats x, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), (__m512)x);
}
#elif defined(__AVX2__)
[[maybe_unused]] inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
[[maybe_unused]] inline Floats load_some(const float* p, int count) {
  return (Floats)_mm256_maskload_ps(p, first_lanes(count));
}
[[maybe_unused]] inline void store_some(float* p, Floats x, int count) {
  _mm256_maskstore_ps(p, first_lanes(count), (__m256)x);
}
#else
[[maybe_unused]] inline Floats load_some(const float* p, int count) {
  float all[kLanes] = {};
  for (int l = 0; l < count; ++l) all[l] = p[l];
  return load(all);
}
[[maybe_unused]] inline void store_some(float* p, Floats x, int count) {
  float all[kLanes];
  store(all, x);
  for (int part = kLanes / 2; part > 0; part /= 2) {
    if ((count & part) == 0) continue;
    std::memcpy(p, all + (count & ~(2 * part - 1)), static_cast<size_t>(part) * sizeof(float));
    p += part;
  }
}
#endif

// A vector half as long, for what whole ones would not fill.
typedef float Half __attribute__((vector_size(kLanes * 2)));

// Comparisons are false for NaN, which therefore passes.
template <typename V>
[[maybe_unused]] inline V clamp(V x, V low, V high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

#if defined(__AVX512F__)

using Mask = __mmask16;
[[maybe_unused]] inline Mask mask_all() { return 0xffff; }
[[maybe_unused]] inline Mask mask_of(uint32_t bits) { return static_cast<Mask>(bits); }
[[maybe_unused]] inline uint32_t mask_bits(Mask m) { return m; }
[[maybe_unused]] inline Mask mask_and(Mask a, Mask b) { return a & b; }
[[maybe_unused]] inline bool mask_has(Mask m, int lane) { return (m >> lane) & 1; }
[[maybe_unused]] inline Mask mask_inside(const int32_t* outer, int32_t inner, uint32_t extent) {
  const __m512i at = _mm512_add_epi32(_mm512_loadu_si512(outer), _mm512_set1_epi32(inner));
  return _mm512_cmplt_epu32_mask(at, _mm512_set1_epi32(static_cast<int32_t>(extent)));
}
[[maybe_unused]] inline Floats load_where(const float* p, Mask m, Floats otherwise) {
  return (Floats)_mm512_mask_loadu_ps((__m512)otherwise, m, p);
}
[[maybe_unused]] inline Floats load_even(const float* p, Mask m, Floats otherwise) {
  const uint32_t wide = _pdep_u32(m, 0x55555555u);
  const __m512 lo = _mm512_maskz_loadu_ps(static_cast<__mmask16>(wide), p);
  const __m512 hi = _mm512_maskz_loadu_ps(static_cast<__mmask16>(wide >> 16), p + 16);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return (Floats)_mm512_mask_blend_ps(m, (__m512)otherwise, _mm512_permutex2var_ps(lo, even, hi));
}
// p[0], p[2], ...: nothing behind the last of them is touched.
[[maybe_unused]] inline Floats load_even_all(const float* p) {
  const __m512i pick = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
  return (Floats)_mm512_permutex2var_ps(_mm512_loadu_ps(p), pick, _mm512_loadu_ps(p + 15));
}

#elif defined(__AVX2__)

using Mask = __m256i;
[[maybe_unused]] inline Mask mask_all() { return _mm256_set1_epi32(-1); }
[[maybe_unused]] inline Mask mask_of(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(bits)), lane),
                            lane);
}
[[maybe_unused]] inline uint32_t mask_bits(Mask m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m)));
}
[[maybe_unused]] inline Mask mask_and(Mask a, Mask b) { return _mm256_and_si256(a, b); }
[[maybe_unused]] inline bool mask_has(Mask m, int lane) {
  return (_mm256_movemask_ps(_mm256_castsi256_ps(m)) >> lane) & 1;
}
[[maybe_unused]] inline Mask mask_inside(const int32_t* outer, int32_t inner, uint32_t extent) {
  const __m256i at = _mm256_add_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(outer)),
                                      _mm256_set1_epi32(inner));
  const __m256i last = _mm256_set1_epi32(static_cast<int32_t>(extent - 1));
  return extent == 0 ? _mm256_setzero_si256() : _mm256_cmpeq_epi32(_mm256_min_epu32(at, last), at);
}
[[maybe_unused]] inline Floats load_where(const float* p, Mask m, Floats otherwise) {
  return (Floats)_mm256_blendv_ps((__m256)otherwise, _mm256_maskload_ps(p, m),
                                  _mm256_castsi256_ps(m));
}
[[maybe_unused]] inline Floats load_even(const float* p, Mask m, Floats otherwise) {
  const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
  return (Floats)_mm256_mask_i32gather_ps((__m256)otherwise, p, even, _mm256_castsi256_ps(m), 4);
}
// p[0], p[2], ...: nothing behind the last of them is touched.
[[maybe_unused]] inline Floats load_even_all(const float* p) {
  const __m256 both = _mm256_shuffle_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 7), 0xd8);
  return (Floats)_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(both), 0xd8));
}

#else

using Mask = Ints;
[[maybe_unused]] inline Mask mask_all() { return ~Ints{}; }
[[maybe_unused]] inline Mask mask_of(uint32_t bits) {
  const Ints lane = {1, 2, 4, 8};
  return (static_cast<int32_t>(bits) & lane) != 0;
}
[[maybe_unused]] inline uint32_t mask_bits(Mask m) {
  const Ints bits = m & Ints{1, 2, 4, 8};
  return static_cast<uint32_t>(bits[0] | bits[1] | bits[2] | bits[3]);
}
[[maybe_unused]] inline Mask mask_and(Mask a, Mask b) { return a & b; }
[[maybe_unused]] inline bool mask_has(Mask m, int lane) { return m[lane] != 0; }
[[maybe_unused]] inline Mask mask_inside(const int32_t* outer, int32_t inner, uint32_t extent) {
  typedef uint32_t Unsigned __attribute__((vector_size(kLanes * 4)));
  const Ints at = *reinterpret_cast<const LooseInts*>(outer) + inner;
  return (Ints)((Unsigned)at < extent);
}
[[maybe_unused]] inline Floats load_where(const float* p, Mask m, Floats otherwise) {
  for (int l = 0; l < kLanes; ++l) {
    if (m[l] != 0) otherwise[l] = p[l];
  }
  return otherwise;
}
[[maybe_unused]] inline Floats load_even(const float* p, Mask m, Floats otherwise) {
  for (int l = 0; l < kLanes; ++l) {
    if (m[l] != 0) otherwise[l] = p[2 * l];
  }
  return otherwise;
}
// p[0], p[2], ...: nothing behind the last of them is touched.
[[maybe_unused]] inline Floats load_even_all(const float* p) {
  return Floats{p[0], p[2], p[4], p[6]};
}

#endif

// Swaps lane bits and row bits one at a time: lanes with bit `Bit` of rows without it go to the
// rows with it, and back.
template <int Bit>
[[maybe_unused]] inline void swap_bit(Floats* block) {
  Ints low, high;
  for (int l = 0; l < kLanes; ++l) {
    low[l] = (l & Bit) ? kLanes + (l ^ Bit) : l;
    high[l] = (l & Bit) ? kLanes + l : (l ^ Bit);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) {
    if (r & Bit) continue;
    const Floats a = block[r], b = block[r | Bit];
    block[r] = __builtin_shuffle(a, b, low);
    block[r | Bit] = __builtin_shuffle(a, b, high);
  }
}

[[maybe_unused]] inline void transpose(Floats* block) {
  swap_bit<1>(block);
  swap_bit<2>(block);
  if (kLanes > 4) swap_bit<4>(block);
  if (kLanes > 8) swap_bit<8>(block);
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
