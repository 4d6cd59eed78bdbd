// GELU by a table: erf is even in what its sign leaves, smooth, and 1 where |x| > 4.
#pragma once

#include "cpu/isa/vector_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// erf(u), u >= 0: coefficients of r = kErfSteps * u - i by the whole number i next to it, one
// vector of them for each power of r. Off by at most 2e-7 (AVX2: 5e-8); the last one is 1.
#if defined(__AVX512F__)
constexpr float kErfSteps = 3.875f, kErfLast = 15.49f;
alignas(64) constexpr float kErf[5][16] = {
    {0.0f, 0.284857482f, 0.534558892f, 0.726428628f, 0.855664134f, 0.931967556f, 0.971457601f,
     0.989372313f, 0.996495962f, 0.998978794f, 0.999737322f, 0.999940455f, 0.999988079f,
     0.999997914f, 0.999999702f, 1.0f},
    {0.291194528f, 0.272431761f, 0.223096058f, 0.159912065f, 0.100328542f, 0.0550959669f,
     0.0264828503f, 0.0111418255f, 0.00410290202f, 0.00132240658f, 0.000373055285f, 9.21107858e-05f,
     1.99053993e-05f, 3.76485082e-06f, 6.23209075e-07f, 0.0f},
    {4.37627705e-06f, -0.0181430969f, -0.0297149122f, -0.0319487453f, -0.0267260801f,
     -0.0183460265f, -0.0105821323f, -0.00519424165f, -0.00218608649f, -0.000792725536f,
     -0.000248502911f, -6.75027841e-05f, -1.59166739e-05f, -3.2621117e-06f, -5.81711731e-07f, 0.0f},
    {-0.00650576781f, -0.00521441502f, -0.00231299223f, 0.000685296662f, 0.00249495241f,
     0.00283457991f, 0.0022276165f, 0.00137022953f, 0.000690013752f, 0.000290745811f,
     0.000103789564f, 3.1635187e-05f, 8.27656822e-06f, 1.86558736e-06f, 3.63297772e-07f, 0.0f},
    {0.000130061177f, 0.000573516591f, 0.000809210876f, 0.000636568526f, 0.000258472777f,
     -6.51417213e-05f, -0.000209213453f, -0.000202701209f, -0.000134128029f, -6.88198925e-05f,
     -2.86919367e-05f, -9.94693255e-06f, -2.90604316e-06f, -7.21611286e-07f, -1.53188992e-07f,
     0.0f}};

ONNX_FUSION_INLINE Floats look_up(const float* table, Floats shifted) {
  return (Floats)_mm512_maskz_permutexvar_ps(0xffff, _mm512_castps_si512((__m512)shifted),
                                             _mm512_load_ps(table));
}
#elif defined(__AVX2__)
constexpr float kErfSteps = 1.6875f, kErfLast = 7.49f;
alignas(32) constexpr float kErf[7][8] = {
    {0.0f, 0.597998798f, 0.906282365f, 0.988068283f, 0.999198318f, 0.999972165f, 0.999999523f,
     1.0f},
    {0.668669164f, 0.470654577f, 0.164124817f, 0.0283545256f, 0.00242694817f, 0.000102933096f,
     2.164119e-06f, 0.0f},
    {-7.61257297e-07f, -0.165277511f, -0.115270056f, -0.029871678f, -0.00340902759f,
     -0.000180703253f, -4.55621193e-06f, 0.0f},
    {-0.0782543719f, -0.0164155383f, 0.0347507372f, 0.01766886f, 0.00290821237f, 0.000198865833f,
     6.08070332e-06f, 0.0f},
    {-0.000142125733f, 0.0222197771f, 0.00129127526f, -0.00580688054f, -0.00164404779f,
     -0.000153854984f, -5.91824573e-06f, 0.0f},
    {0.00879436079f, -0.00126320974f, -0.00394797279f, 0.00052116561f, 0.000617777871f,
     9.1969494e-05f, 4.87629586e-06f, 0.0f},
    {-0.000990621978f, -0.00186755322f, 0.000781955197f, 0.000343801745f, -0.000130928485f,
     -3.74777956e-05f, -2.68998292e-06f, 0.0f}};

ONNX_FUSION_INLINE Floats look_up(const float* table, Floats shifted) {
  return (Floats)_mm256_permutevar8x32_ps(_mm256_load_ps(table),
                                          _mm256_castps_si256((__m256)shifted));
}
#endif

// x * half * (erf(x * inner) + 1)
ONNX_FUSION_INLINE Floats v_gelu(Floats x, float half, float inner) {
#if defined(__AVX2__)
  constexpr int kPowers = sizeof kErf / sizeof kErf[0];
  const Floats part = x * half;
  const Floats u = (Floats)((Ints)(x * (inner * kErfSteps)) & 0x7fffffff);
  const Floats s = least(broadcast(kErfLast), u);
  const Floats shifted = s + 12582912.0f;  // rounded to a whole number, in the lowest bits
  const Floats r = s - (shifted - 12582912.0f);
  Floats p = look_up(kErf[kPowers - 1], shifted);
#pragma GCC unroll 8
  for (int i = kPowers - 2; i >= 0; --i) p = p * r + look_up(kErf[i], shifted);
  // With the sign of erf: that of x, if half and inner have the same one.
  const int sign = half * inner < 0 ? INT32_MIN : 0;
  const Floats rest = (Floats)(((Ints)part & 0x7fffffff) | sign);
  return rest * p + part;
#else
  return x * half * (v_erf(x * inner) + 1.0f);
#endif
}

}  // namespace
}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
