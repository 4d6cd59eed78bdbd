// Multiply-adds as fast as the machine does them: what kernels' speed is a fraction of.
#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {

// Returns the floating-point operations done. Sums that do not wait for each other, as many as the
// registers of every instruction set hold, cover the latency.
double multiply_add(int64_t rounds, float* sink) {
  constexpr int kSums = 12;
  Floats sum[kSums];
  for (int i = 0; i < kSums; ++i) sum[i] = broadcast(static_cast<float>(i));
  const Floats factor = broadcast(sink[0]), term = broadcast(sink[1]);
  for (int64_t round = 0; round < rounds; ++round) {
#if defined(__clang__)
#pragma clang loop unroll(full)
#else
#pragma GCC unroll 12
#endif
    for (int i = 0; i < kSums; ++i) sum[i] = sum[i] * factor + term;
  }
  Floats total{};
  for (int i = 0; i < kSums; ++i) total += sum[i];
  for (int lane = 0; lane < kLanes; ++lane) sink[0] += total[lane];
  return 2.0 * kSums * kLanes * static_cast<double>(rounds);
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
