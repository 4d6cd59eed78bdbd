// Softmax over rows of scores, in place, the scale and additive masks taken in on the way.
#include "cpu/attention_kernels.h"

#include "cpu/isa/row_math.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

// Vectors whose exponentials are computed together, and summed apart: as many as have registers.
constexpr int kAtOnce = kRegisters > 16 ? 4 : 2;
constexpr float kInfinity = __builtin_inff();

inline Floats larger(Floats a, Floats b) { return most(a, b); }  // b where either is NaN

inline float highest_of(Floats x) { return across<Larger>(x); }
inline float sum_of(Floats x) { return across<Add>(x); }

template <int Planes>
inline Floats masked(Floats x, float scale, const float* a, const float* b, int64_t c) {
  x = x * scale;
  if (Planes > 0) x += load(a + c);
  if (Planes > 1) x += load(b + c);
  return x;
}

// Scales and masks a row; returns the highest score.
template <int Planes>
inline float prepare_row(const SoftmaxRows& s, int64_t r) {
  const int tail = static_cast<int>(s.columns % kLanes);
  const int64_t whole = s.columns - tail;
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
    const Mask mask = mask_of((1u << tail) - 1u);
    Floats y = load(x + whole) * s.scale;
    if (Planes > 0) y += load_where(a + whole, mask, Floats{});
    if (Planes > 1) y += load_where(b + whole, mask, Floats{});
    Ints lane;
    for (int l = 0; l < kLanes; ++l) lane[l] = l;
    y = lane < tail ? y : broadcast(-kInfinity);
    store(x + whole, y);
    high[0] = larger(y, high[0]);
  }
  return highest_of(larger(high[0], high[1]));
}

template <int N>
inline void exp_some(float* x, float shift, Floats* sum) {
  Floats y[N];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) y[i] = load(x + i * kLanes) - shift;
  exp_negative<N>(y);
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    store(x + i * kLanes, y[i]);
    sum[i] += y[i];
  }
}

// x = exp(x - shift) for whole vectors; returns the sum.
inline float exp_row(float* x, int64_t columns, float shift) {
  Floats sum[kAtOnce] = {};
  int64_t c = 0;
  for (; c + kAtOnce * kLanes <= columns; c += kAtOnce * kLanes) {
    exp_some<kAtOnce>(x + c, shift, sum);
  }
  for (; c < columns; c += kLanes) exp_some<1>(x + c, shift, sum);
#pragma GCC unroll 4
  for (int i = 1; i < kAtOnce; ++i) sum[0] += sum[i];
  return sum_of(sum[0]);
}

constexpr int kGroup = 16;              // rows that are exponentiated after all were prepared,
constexpr int64_t kGroupFloats = 4096;  // while they are in the first-level cache

template <int Planes>
void softmax(const SoftmaxRows& s) {
  const int64_t columns = (s.columns + kLanes - 1) / kLanes * kLanes;
  const int64_t fit = kGroupFloats / columns;
  const int64_t group = fit < 1 ? 1 : fit > kGroup ? kGroup : fit;
  for (int64_t r0 = 0; r0 < s.rows; r0 += group) {
    const int64_t r1 = r0 + group < s.rows ? r0 + group : s.rows;
    float high[kGroup];
    for (int64_t r = r0; r < r1; ++r) high[r - r0] = prepare_row<Planes>(s, r);
    for (int64_t r = r0; r < r1; ++r) {
      const float before = s.highest[r];
      const float highest = high[r - r0] > before ? high[r - r0] : before;
      // Nothing but -inf so far: exp(-inf - 0) counts for nothing, and if it stays so, 0 / 0 is
      // NaN.
      const float shift = highest == -kInfinity ? 0.0f : highest;
      float total = exp_row(s.scores + r * s.ld, columns, shift);
      if (s.rescale != nullptr) {
        Floats factor = broadcast(before - shift);
        exp_negative<1>(&factor);
        s.rescale[r] = factor[0];
        total += s.sums[r] * s.rescale[r];
      }
      s.highest[r] = highest;
      s.sums[r] = total;
    }
  }
}

void run_softmax(const SoftmaxRows& s) {
  if (s.planes[1] != nullptr) return softmax<2>(s);
  if (s.planes[0] != nullptr) return softmax<1>(s);
  return softmax<0>(s);
}

constexpr int64_t kManyColumns = 192;

// V vectors of columns, U values of k at once: enough sums to hide the latency of an FMA.
template <int V, int U>
void mix_vectors(int64_t k, const float* a, const float* b, int64_t b_step, float* out, bool add) {
  Floats sum[V * U];
#pragma GCC unroll 16
  for (int i = 0; i < V * U; ++i) sum[i] = Floats{};
  int64_t p = 0;
  for (; p + U <= k; p += U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const float y = a[p + u];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sum[u * V + v] += y * load(b + (p + u) * b_step + v * kLanes);
      }
    }
  }
  for (; p < k; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[v] += a[p] * load(b + p * b_step + v * kLanes);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    Floats all = sum[v];
    for (int u = 1; u < U; ++u) all += sum[u * V + v];
    store(out + v * kLanes, add ? load(out + v * kLanes) + all : all);
  }
}

// Many columns: K rows of them side by side, each read from its beginning to its end.
template <int K>
void mix_rows(const float* a, const float* b, int64_t b_step, int64_t columns, float* out,
              bool add) {
  Floats y[K];
#pragma GCC unroll 8
  for (int p = 0; p < K; ++p) y[p] = broadcast(a[p]);
  for (int64_t c = 0; c < columns; c += kLanes) {
    Floats sum = add ? load(out + c) : Floats{};
#pragma GCC unroll 8
    for (int p = 0; p < K; ++p) sum += y[p] * load(b + p * b_step + c);
    store(out + c, sum);
  }
}

void mix(int64_t k, const float* a, const float* b, int64_t b_step, int64_t columns, float* out,
         bool add) {
  const int64_t whole = columns / kLanes * kLanes;
  int64_t c = 0;
  if (columns >= kManyColumns) {
    int64_t p = 0;
    for (; p + 8 <= k; p += 8) mix_rows<8>(a + p, b + p * b_step, b_step, whole, out, add || p > 0);
    for (; p < k; ++p) mix_rows<1>(a + p, b + p * b_step, b_step, whole, out, add || p > 0);
    c = whole;
  }
  for (; c + 4 * kLanes <= columns; c += 4 * kLanes) {
    mix_vectors<4, 2>(k, a, b + c, b_step, out + c, add);
  }
  for (; c + kLanes <= columns; c += kLanes) {
    mix_vectors<1, 4>(k, a, b + c, b_step, out + c, add);
  }
  if (c == columns) return;
  const Mask mask = mask_of((1u << (columns - c)) - 1u);
  Floats sum[2] = {};
  for (int64_t p = 0; p < k; ++p) {
    sum[p & 1] += a[p] * load_where(b + p * b_step + c, mask, Floats{});
  }
  for (int64_t i = c; i < columns; ++i) out[i] = (add ? out[i] : 0) + sum[0][i - c] + sum[1][i - c];
}

// Lanes without the bit: a's, each with its partner added; lanes with it: b's.
template <int Bit>
inline Floats combine(Floats a, Floats b) {
  Ints own, partner;
  for (int l = 0; l < kLanes; ++l) {
    own[l] = (l & Bit) ? kLanes + l : l;
    partner[l] = own[l] ^ Bit;
  }
  return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, partner);
}

// Lane l of the result is the sum of x[l]'s lanes.
template <int Bit = 1>
inline Floats sums_of(Floats* x) {
  if constexpr (Bit < kLanes) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / Bit; i += 2) x[i / 2] = combine<Bit>(x[i], x[i + 1]);
    return sums_of<2 * Bit>(x);
  }
  return x[0];
}

void dots(int64_t k, const float* a, const float* b, const int64_t* offsets, int64_t count,
          float* out, bool add) {
  const int64_t whole = k / kLanes * kLanes;
  const Mask mask = mask_of((1u << (k - whole)) - 1u);
  for (int64_t j = 0; j < count; j += kLanes) {
    const float* rows[kLanes];
    for (int l = 0; l < kLanes; ++l) rows[l] = b + offsets[j + l < count ? j + l : count - 1];
    Floats sum[kLanes];
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) sum[l] = Floats{};
    for (int64_t p = 0; p < whole; p += kLanes) {
      const Floats x = load(a + p);
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) sum[l] += x * load(rows[l] + p);
    }
    if (whole < k) {
      const Floats x = load_where(a + whole, mask, Floats{});
      for (int l = 0; l < kLanes; ++l) sum[l] += x * load_where(rows[l] + whole, mask, Floats{});
    }
    const Floats total = sums_of(sum);
    if (j + kLanes <= count) {
      store(out + j, add ? load(out + j) + total : total);
    } else {
      for (int64_t i = j; i < count; ++i) out[i] = (add ? out[i] : 0) + total[i - j];
    }
  }
}

float magnitude(const float* x, int64_t count) {
  Floats high[2] = {}, nothing[2] = {};  // 0 * x is not 0 for infinities and NaN
  int64_t i = 0;
  const auto take = [&](Floats y, int part) {
    nothing[part] += y * 0.0f;
    high[part] = larger(y, larger(-y, high[part]));
  };
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    take(load(x + i), 0);
    take(load(x + i + kLanes), 1);
  }
  for (; i + kLanes <= count; i += kLanes) take(load(x + i), 0);
  if (i < count) take(load_where(x + i, mask_of((1u << (count - i)) - 1u), Floats{}), 0);
  return sum_of(nothing[0] + nothing[1]) == 0.0f ? highest_of(larger(high[0], high[1])) : kInfinity;
}

int64_t live(const float* x, int64_t count, float least) {
  constexpr int64_t kStep = 16;
  int64_t end = count / kStep * kStep;
  for (int64_t i = end; i < count; ++i) {
    if (!(x[i] < least)) return count;
  }
  for (; end > 0; end -= kStep) {
    Floats kept{};
#pragma GCC unroll 4
    for (int64_t i = kStep; i > 0; i -= kLanes) {
      kept += load(x + end - i) < least ? Floats{} : broadcast(1.0f);
    }
    if (sum_of(kept) != 0.0f) return end;
  }
  return 0;
}

void scale(float* x, int64_t ld, int64_t rows, int64_t columns, const float* factors) {
  for (int64_t r = 0; r < rows; ++r, x += ld) {
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) store(x + c, load(x + c) * factors[r]);
    for (; c < columns; ++c) x[c] *= factors[r];
  }
}

void divide(const DividedRows& d) {
  for (int64_t r = 0; r < d.rows; ++r) {
    const float* x = d.x + r * d.ld;
    float* out = d.out + d.out_rows[r];
    const float factor = 1.0f / d.sums[r];
    int64_t c = 0;
    for (; c + kLanes <= d.columns; c += kLanes) store(out + c, load(x + c) * factor);
    for (; c < d.columns; ++c) out[c] = x[c] * factor;
  }
}

}  // namespace

extern const AttentionKernels attention_kernels;
const AttentionKernels attention_kernels = {run_softmax, mix, dots, magnitude, live, scale, divide};

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
