// The measured bound of arithmetic, for benchmarks, on the instruction set that the library chose.
#include <cstdint>
#include <string>

#include "machine.h"

namespace onnx_fusion::cpu {

#if defined(__x86_64__)
#define ONNX_FUSION_EACH_ISA(X) X(base) X(avx2) X(avx512)
#else
#define ONNX_FUSION_EACH_ISA(X) X(neon)
#endif

#define X(isa)                                 \
  namespace isa {                              \
  double multiply_add(int64_t rounds, float*); \
  }
ONNX_FUSION_EACH_ISA(X)
#undef X

double multiply_add(int64_t rounds) {
  const std::string name = isa_name();
  float sink[2] = {0.5f, 0.25f};
  double done = 0;
#define X(isa) \
  if (name == #isa) done = isa::multiply_add(rounds, sink);
  ONNX_FUSION_EACH_ISA(X)
#undef X
  // The sums are used, so that the compiler cannot leave them out; they are finite.
  return sink[0] < 1e30f ? done : 0;
}

}  // namespace onnx_fusion::cpu
