// The kernels of the instruction set that the library chose.
#include <string>

#include "cpu/contract_kernels.h"
#include "machine.h"

namespace onnx_fusion::cpu {

#if defined(__x86_64__)
#define ONNX_FUSION_EACH_ISA(X) X(base) X(avx2) X(avx512)
#else
#define ONNX_FUSION_EACH_ISA(X) X(neon)
#endif

#define X(isa)                        \
  namespace isa {                     \
  extern const GemmKernels gemm_kernels; \
  }
ONNX_FUSION_EACH_ISA(X)
#undef X

const GemmKernels& gemm_kernels() {
  static const GemmKernels& chosen = []() -> const GemmKernels& {
    const std::string name = isa_name();
    const GemmKernels* kernels = nullptr;
#define X(isa) \
  if (kernels == nullptr || name == #isa) kernels = &isa::gemm_kernels;
    ONNX_FUSION_EACH_ISA(X)
#undef X
    return *kernels;
  }();
  return chosen;
}

}  // namespace onnx_fusion::cpu
