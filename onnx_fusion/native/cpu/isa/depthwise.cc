// Windows without reuse between channels (depthwise convolution): vectors along a row of outputs,
// or along the channels.
#include <cstdint>

#include "cpu/contract_kernels.h"
#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

template <int Step, bool Whole, int V>
void window_vectors(const WindowRow& row, int64_t first, float* out) {
  const WindowVector* vectors = row.vectors + first;
  Floats sum[V];
  const float* at[V];
  const uint16_t* masks[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    sum[v] = Floats{};
    at[v] = row.base + vectors[v].offset;
    masks[v] = row.masks + (first + v) * row.taps;
  }
  const Floats fill = broadcast(row.fill);
  for (int t = 0; t < row.taps; ++t) {
    const Floats w = broadcast(row.weights[t]);
    const int64_t shift = row.inner[t];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const float* p = at[v] + shift;
      if (Whole) {
        sum[v] += w * (Step == 1 ? load(p) : load_even_all(p));
      } else {
        const Mask mask = mask_of(masks[v][t]);
        sum[v] += w * (Step == 1 ? load_where(p, mask, fill) : load_even(p, mask, fill));
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) store(out + vectors[v].column, sum[v]);
}

template <int Step>
void window_row(const WindowRow& row, float* out) {
  for (int64_t v = 0; v < row.count;) {
    const bool whole = row.vectors[v].whole != 0;
    int64_t end = v + 1;
    while (end < row.count && end < v + 4 && (row.vectors[end].whole != 0) == whole) ++end;
    switch ((end - v) * 2 + (whole ? 1 : 0)) {
      case 2: window_vectors<Step, false, 1>(row, v, out); break;
      case 3: window_vectors<Step, true, 1>(row, v, out); break;
      case 4: window_vectors<Step, false, 2>(row, v, out); break;
      case 5: window_vectors<Step, true, 2>(row, v, out); break;
      case 6: window_vectors<Step, false, 3>(row, v, out); break;
      case 7: window_vectors<Step, true, 3>(row, v, out); break;
      case 8: window_vectors<Step, false, 4>(row, v, out); break;
      default: window_vectors<Step, true, 4>(row, v, out); break;
    }
    v = end;
  }
}

void run_row(const WindowRow& row, float* out) {
  if (row.step == 1) {
    window_row<1>(row, out);
  } else {
    window_row<2>(row, out);
  }
}

// V vectors of channels at channel c; the last one of `tail` lanes if that is not 0.
template <int P, int V, bool Tail>
void window_block(const float* const* in, int taps, const float* weights, int64_t weight_step,
                  int64_t c, Mask tail, float* out, int64_t ldo) {
  Floats sum[P][V];
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[i][v] = Floats{};
  }
  const float* w = weights + c;
  for (int t = 0; t < taps; ++t, w += weight_step) {
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
      const float* x = in[t * P + i] + c;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Floats y =
            Tail && v == V - 1 ? load_where(x + v * kLanes, tail, Floats{}) : load(x + v * kLanes);
        sum[i][v] += y * load(w + v * kLanes);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      float* to = out + i * ldo + c + v * kLanes;
      if (Tail && v == V - 1) {
        for (int l = 0; l < kLanes; ++l) {
          if (mask_has(tail, l)) to[l] = sum[i][v][l];
        }
      } else {
        store(to, sum[i][v]);
      }
    }
  }
}

template <int P>
void window_channels(const float* const* in, int taps, const float* weights, int64_t weight_step,
                     int64_t channels, float* out, int64_t ldo) {
  int64_t c = 0;
  const Mask all = mask_all();
  for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
    window_block<P, 2, false>(in, taps, weights, weight_step, c, all, out, ldo);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    window_block<P, 1, false>(in, taps, weights, weight_step, c, all, out, ldo);
  }
  if (c < channels) {
    const Mask tail = mask_of((1u << (channels - c)) - 1u);
    window_block<P, 1, true>(in, taps, weights, weight_step, c, tail, out, ldo);
  }
}

void run_channels(const float* const* in, int taps, int pixels, const float* weights,
                  int64_t weight_step, int64_t channels, float* out, int64_t ldo) {
  switch (pixels) {
    case 1: return window_channels<1>(in, taps, weights, weight_step, channels, out, ldo);
    case 2: return window_channels<2>(in, taps, weights, weight_step, channels, out, ldo);
    case 3: return window_channels<3>(in, taps, weights, weight_step, channels, out, ldo);
    default: return window_channels<4>(in, taps, weights, weight_step, channels, out, ldo);
  }
}

}  // namespace

extern const WindowKernels window_kernels;
const WindowKernels window_kernels = {run_row, run_channels};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
