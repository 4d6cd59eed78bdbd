// Softmax over rows of scores, in place, the scale and additive masks taken in on the way.
#include "cpu/attention_kernels.h"

#include "cpu/isa/lanes.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr float kInfinity = __builtin_inff();

// e^a for a <= 0, as math.h's; a NaN stays one.
inline Floats exp_negative(Floats a) {
  // Adding 1.5 * 2^23 + 127 rounds to an integer and leaves it, biased, in the low bits.
  const Floats shifted = a * 1.44269504088896341f + 12583039.0f;
  const Floats n = shifted - 12583039.0f;
  Floats r = a - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Floats y = p * (Floats)((Ints)shifted << 23);
  return a < -87.33654f ? Floats{} : y;
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float highest_of(Floats x) {
  float y = x[0];
  for (int l = 1; l < kLanes; ++l) y = x[l] > y ? x[l] : y;
  return y;
}

inline float sum_of(Floats x) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) x[l] += x[l + half];
  }
  return x[0];
}

template <int Planes>
inline Floats masked(Floats x, float scale, const float* a, const float* b, int64_t c) {
  x = x * scale;
  if (Planes > 0) x += load(a + c);
  if (Planes > 1) x += load(b + c);
  return x;
}

template <int Planes>
void softmax(const SoftmaxRows& s) {
  const int tail = static_cast<int>(s.columns % kLanes);
  const int64_t whole = s.columns - tail;
  const Mask mask = mask_of((1u << tail) - 1u);
  for (int64_t r = 0; r < s.rows; ++r) {
    float* x = s.scores + r * s.ld;
    const float* a = Planes > 0 ? s.planes[0] + s.plane_rows[0][r] : nullptr;
    const float* b = Planes > 1 ? s.planes[1] + s.plane_rows[1][r] : nullptr;
    Floats high[2] = {broadcast(-kInfinity), broadcast(-kInfinity)};
    int64_t c = 0;
    for (; c + 2 * kLanes <= whole; c += 2 * kLanes) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Floats y = masked<Planes>(load(x + c + i * kLanes), s.scale, a, b, c + i * kLanes);
        store(x + c + i * kLanes, y);
        high[i] = larger(y, high[i]);
      }
    }
    for (; c < whole; c += kLanes) {
      const Floats y = masked<Planes>(load(x + c), s.scale, a, b, c);
      store(x + c, y);
      high[0] = larger(y, high[0]);
    }
    if (tail > 0) {
      Floats y = load(x + whole) * s.scale;
      if (Planes > 0) y += load_where(a + whole, mask, Floats{});
      if (Planes > 1) y += load_where(b + whole, mask, Floats{});
      for (int l = tail; l < kLanes; ++l) y[l] = -kInfinity;
      store(x + whole, y);
      high[0] = larger(y, high[0]);
    }
    const float before = s.highest[r];
    float highest = highest_of(larger(high[0], high[1]));
    highest = highest > before ? highest : before;
    // Nothing but -inf so far: exp(-inf - 0) counts for nothing, and if it stays so, 0 / 0 is NaN.
    const float shift = highest == -kInfinity ? 0.0f : highest;
    Floats sum[4] = {};
    c = 0;
    const int64_t end = whole + (tail > 0 ? kLanes : 0);
    for (; c + 4 * kLanes <= end; c += 4 * kLanes) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Floats y = exp_negative(load(x + c + i * kLanes) - shift);
        store(x + c + i * kLanes, y);
        sum[i] += y;
      }
    }
    for (; c < end; c += kLanes) {
      const Floats y = exp_negative(load(x + c) - shift);
      store(x + c, y);
      sum[0] += y;
    }
    float total = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (s.rescale != nullptr) {
      const Floats factor = exp_negative(broadcast(before - shift));
      s.rescale[r] = factor[0];
      total += s.sums[r] * factor[0];
    }
    s.highest[r] = highest;
    s.sums[r] = total;
  }
}

void run_softmax(const SoftmaxRows& s) {
  if (s.planes[1] != nullptr) return softmax<2>(s);
  if (s.planes[0] != nullptr) return softmax<1>(s);
  return softmax<0>(s);
}

void scale(float* x, int64_t ld, int64_t rows, int64_t columns, const float* factors) {
  for (int64_t r = 0; r < rows; ++r, x += ld) {
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) store(x + c, load(x + c) * factors[r]);
    for (; c < columns; ++c) x[c] *= factors[r];
  }
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {run_softmax, scale};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
