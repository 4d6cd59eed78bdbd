// Scale, bias, residual and clamp of a rectangle of accumulators.
#include "cpu/finish.h"

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <bool ColumnBias, bool Residual, bool Clamp>
void finish(const FinishRows& f) {
  const Floats scale = broadcast(f.scale), low = broadcast(f.low), high = broadcast(f.high);
  for (int64_t r = 0; r < f.rows; ++r) {
    const float* a = f.accumulators + r * f.ld;
    const float* more = Residual ? f.residual + r * f.residual_ld : nullptr;
    float* out = f.out + r * f.out_ld;
    const float row_bias = f.row_bias != nullptr ? f.row_bias[r * f.row_step] : 0.0f;
    const Floats bias = broadcast(row_bias);
    const bool plain = f.row_bias == nullptr;
    int64_t c = 0;
    for (; c + kLanes <= f.columns; c += kLanes) {
      Floats x = load(a + c) * scale;
      if (ColumnBias) {
        x += load(f.column_bias + c);
      } else if (!plain) {
        x += bias;
      }
      if (Residual) x += load(more + c);
      if (Clamp) x = clamp(x, low, high);
      store(out + c, x);
    }
    for (; c < f.columns; ++c) {
      float x = a[c] * f.scale;
      if (ColumnBias) {
        x += f.column_bias[c];
      } else if (!plain) {
        x += row_bias;
      }
      if (Residual) x += more[c];
      if (Clamp) x = clamp(x, f.low, f.high);
      out[c] = x;
    }
  }
}

void run_finish(const FinishRows& f) {
  switch ((f.column_bias != nullptr ? 4 : 0) + (f.residual != nullptr ? 2 : 0) + (f.clamps ? 1 : 0)) {
    case 0: return finish<false, false, false>(f);
    case 1: return finish<false, false, true>(f);
    case 2: return finish<false, true, false>(f);
    case 3: return finish<false, true, true>(f);
    case 4: return finish<true, false, false>(f);
    case 5: return finish<true, false, true>(f);
    case 6: return finish<true, true, false>(f);
    default: return finish<true, true, true>(f);
  }
}

}  // namespace

extern const FinishPasses finish_passes;
const FinishPasses finish_passes = {run_finish};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
