// The kernels of the instruction set that the library chose.
#include <string>

#include "cpu/attention_kernels.h"
#include "cpu/contract_kernels.h"
#include "cpu/depth_kernels.h"
#include "cpu/direct_kernels.h"
#include "cpu/finish.h"
#include "cpu/group_kernels.h"
#include "cpu/narrow_kernels.h"
#include "cpu/pooled_kernels.h"
#include "cpu/strassen_kernels.h"
#include "cpu/winograd_kernels.h"
#include "machine.h"

namespace onnx_fusion::cpu {

#if defined(__x86_64__)
#define ONNX_FUSION_EACH_ISA(X) X(base) X(avx2) X(avx512)
#else
#define ONNX_FUSION_EACH_ISA(X) X(neon)
#endif

#define X(isa)                                        \
  namespace isa {                                     \
  extern const GemmKernels gemm_kernels;              \
  extern const TileKernels tile_kernels;              \
  extern const WindowKernels window_kernels;          \
  extern const DirectKernels direct_kernels;          \
  extern const FinishPasses finish_passes;            \
  extern const WinogradKernels winograd_kernels;      \
  extern const AttentionKernels attention_kernels;    \
  extern const DepthKernels depth_kernels;            \
  extern const NarrowKernels narrow_kernels;          \
  extern const GroupKernels group_kernels;            \
  extern const StrassenKernels strassen_kernels;      \
  extern const PooledTileKernels pooled_tile_kernels; \
  extern const PooledLineKernels pooled_line_kernels; \
  }
ONNX_FUSION_EACH_ISA(X)
#undef X

namespace {

struct Chosen {
  const GemmKernels* gemm = nullptr;
  const TileKernels* tile = nullptr;
  const WindowKernels* window = nullptr;
  const DirectKernels* direct = nullptr;
  const FinishPasses* finish = nullptr;
  const AttentionKernels* attention = nullptr;
  const NarrowKernels* narrow = nullptr;
  const GroupKernels* group = nullptr;
  const StrassenKernels* strassen = nullptr;
  const DepthKernels* depth[3] = {};  // narrowest first
  const WinogradKernels* winograd[3] = {};
  const PooledTileKernels* pooled_tiles[3] = {};
  const PooledLineKernels* pooled_lines[3] = {};
  int depths = 0;
};

const Chosen& chosen() {
  static const Chosen kernels = [] {
    const std::string name = isa_name();
    Chosen choice;
    bool all = false;
#define X(isa)                                                      \
  if (!all) {                                                       \
    choice.winograd[choice.depths] = &isa::winograd_kernels;        \
    choice.pooled_tiles[choice.depths] = &isa::pooled_tile_kernels; \
    choice.pooled_lines[choice.depths] = &isa::pooled_line_kernels; \
    choice.depth[choice.depths++] = &isa::depth_kernels;            \
  }                                                                 \
  all = all || name == #isa;                                        \
  if (choice.gemm == nullptr || name == #isa) {                     \
    choice.gemm = &isa::gemm_kernels;                               \
    choice.tile = &isa::tile_kernels;                               \
    choice.window = &isa::window_kernels;                           \
    choice.direct = &isa::direct_kernels;                           \
    choice.finish = &isa::finish_passes;                            \
    choice.attention = &isa::attention_kernels;                     \
    choice.narrow = &isa::narrow_kernels;                           \
    choice.group = &isa::group_kernels;                             \
    choice.strassen = &isa::strassen_kernels;                       \
  }
    ONNX_FUSION_EACH_ISA(X)
#undef X
    return choice;
  }();
  return kernels;
}

// The first whose vectors hold so many, or the last.
template <class Kernels>
const Kernels& narrowest(const Kernels* const (&all)[3], int64_t count) {
  int i = 0;
  while (i + 1 < chosen().depths && all[i]->lanes < count) ++i;
  return *all[i];
}

}  // namespace

const GemmKernels& gemm_kernels() { return *chosen().gemm; }
const TileKernels& tile_kernels() { return *chosen().tile; }
const WindowKernels& window_kernels() { return *chosen().window; }
const DirectKernels& direct_kernels() { return *chosen().direct; }
const FinishPasses& finish_passes() { return *chosen().finish; }
const AttentionKernels& attention_kernels() { return *chosen().attention; }
const NarrowKernels& narrow_kernels() { return *chosen().narrow; }
const GroupKernels& group_kernels() { return *chosen().group; }
const StrassenKernels& strassen_kernels() { return *chosen().strassen; }
const WinogradKernels& winograd_kernels(int64_t filters) {
  return narrowest(chosen().winograd, filters);
}
const PooledTileKernels& pooled_tile_kernels(int64_t filters) {
  return narrowest(chosen().pooled_tiles, filters);
}
const PooledLineKernels& pooled_line_kernels(int64_t columns) {
  return narrowest(chosen().pooled_lines, columns);
}
const DepthKernels* depth_kernels(int64_t channels) {
  const Chosen& choice = chosen();
  for (int i = choice.depths; i-- > 0;) {
    if (choice.depth[i]->lanes <= channels) return choice.depth[i];
  }
  return nullptr;
}

}  // namespace onnx_fusion::cpu
