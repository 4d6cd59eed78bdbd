// (x - mean) / sqrt(mean square + epsilon) * scale + bias over rows, as one kernel. A row is read
// three times, and each pass waits for what the one before it summed; so they run over three rows
// at once, in one loop:
//
//   row r + 2   its sum
//   row r + 1   the sum of the squares of its differences from the mean
//   row r       the result
//
// Without a mean (RMS) there are two passes. What is behind whole vectors is one more vector that
// ends where the row does, loaded before anything is stored there. Short rows are taken two at a
// time.
#include <cmath>

#include "cpu/isa/row_math.h"
#include "cpu/isa/stream.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int64_t kSum = 32 * kLanes;  // elements summed before they join the others
constexpr int64_t kPairs = 192;        // the longest rows that are taken two at a time

// N rows, one behind the other, at each of three places.
template <int N>
struct Rows {
  int64_t n;
  const float *second, *first, *x;
  float first_mean[N], mean[N], factor[N];
  const float *scale, *bias;
  float* out;
};
template <int N>
struct Sums {
  double sum[N], squares[N];  // of kSum elements each: in float, they would round as the row grows
};

template <bool Centred, bool Biased, bool Past, bool Second, bool First, bool Own, int N>
ONNX_FUSION_INLINE void run(const Rows<N>& at, Sums<N>* all) {
  // Vectors of a row, which have sums of their own.
  constexpr int kAtOnce = kRegisters == 16 ? 1 : 2 / N;
  const int64_t n = at.n, left = n % kLanes, behind = n - kLanes;
  Floats first_mean[N], mean[N], factor[N], last[N];
#pragma GCC unroll 2
  for (int r = 0; r < N; ++r) {
    first_mean[r] = broadcast(at.first_mean[r]);
    mean[r] = broadcast(at.mean[r]);
    factor[r] = broadcast(at.factor[r]);
    last[r] = Own && left > 0 ? load(at.x + r * n + behind) : Floats{};
    all->sum[r] = all->squares[r] = 0;
  }
  const auto square = [&](int64_t i, int r) __attribute__((always_inline)) {
    const Floats v = load(at.first + r * n + i);
    const Floats c = Centred ? v - first_mean[r] : v;
    return c * c;
  };
  const auto finish = [&](Floats v, int64_t i, int r, Floats scale, Floats bias)
                          __attribute__((always_inline)) {
                            const Floats c = (Centred ? v - mean[r] : v) * factor[r] * scale;
                            put<Past>(at.out + r * n + i, Biased ? c + bias : c);
                          };
  for (int64_t begin = 0; begin < n; begin += kSum) {
    const int64_t end = n - begin < kSum ? n : begin + kSum;
    Floats sum0{}, sum1{}, squares0{}, squares1{};  // of two rows, or of every other vector of one
    const auto one = [&](int64_t i, int r, Floats scale, Floats bias, Floats& sum, Floats& squares)
                         __attribute__((always_inline)) {
                           if (Second) sum += load(at.second + r * n + i);
                           if (Past && Second) fetch(at.second + r * n + i);
                           if (First) squares += square(i, r);
                           if (Own) finish(load(at.x + r * n + i), i, r, scale, bias);
                         };
    const auto scale_at = [&](int64_t i) __attribute__((always_inline)) {
      return Own ? load(at.scale + i) : Floats{};
    };
    const auto bias_at = [&](int64_t i) __attribute__((always_inline)) {
      return Own && Biased ? load(at.bias + i) : Floats{};
    };
    int64_t i = begin;
    for (; i + kAtOnce * kLanes <= end; i += kAtOnce * kLanes) {
      const int64_t next = i + kLanes;
      const Floats scale = scale_at(i), bias = bias_at(i);
      one(i, 0, scale, bias, sum0, squares0);
      if (N > 1) one(i, N - 1, scale, bias, sum1, squares1);
      if (kAtOnce > 1) one(next, 0, scale_at(next), bias_at(next), sum1, squares1);
    }
    if (N == 1 && i + kLanes <= end) {
      one(i, 0, scale_at(i), bias_at(i), sum0, squares0);
      i += kLanes;
    }
    if (!Past && i < end) {
      Ints lane;
      for (int l = 0; l < kLanes; ++l) lane[l] = l;
      const Ints seen = lane < static_cast<int32_t>(kLanes - left);
      const auto tail = [&](int r, Floats& sum, Floats& squares) __attribute__((always_inline)) {
        if (Second) sum += seen ? Floats{} : load(at.second + r * n + behind);
        if (First) squares += seen ? Floats{} : square(behind, r);
        if (Own) finish(last[r], behind, r, scale_at(behind), bias_at(behind));
      };
      tail(0, sum0, squares0);
      if (N > 1) tail(N - 1, sum1, squares1);
    }
    if (N == 1) sum0 += sum1;
    if (N == 1) squares0 += squares1;
    if (Second) all->sum[0] += across<Add>(sum0);
    if (First) all->squares[0] += across<Add>(squares0);
    if (Second && N > 1) all->sum[N - 1] += across<Add>(sum1);
    if (First && N > 1) all->squares[N - 1] += across<Add>(squares1);
  }
}

template <bool Centred, bool Biased, bool Past, int N>
__attribute__((noinline)) void norm_rows(const Rows<N>& first, float count, float epsilon,
                                         int64_t rows) {
  Rows<N> at = first;
  const int64_t apart = N * at.n;
  const auto take_means = [&](const Sums<N>& sums) {
    for (int r = 0; r < N; ++r)
      at.first_mean[r] = Centred ? static_cast<float>(sums.sum[r] / count) : 0;
  };
  const auto take_factors = [&](const Sums<N>& sums) {
    for (int r = 0; r < N; ++r) {
      at.mean[r] = at.first_mean[r];
      at.factor[r] = 1.0f / std::sqrt(static_cast<float>(sums.squares[r] / count) + epsilon);
    }
  };
  Sums<N> sums{};
  at.second = at.first = at.x;
  if (Centred) {
    run<Centred, Biased, Past, true, false, false>(at, &sums);
    take_means(sums);
  }
  if (rows > N) at.second += apart;
  run<Centred, Biased, Past, Centred, true, false>(at, &sums);
  for (int64_t r = 0; r < rows; r += N) {
    take_factors(sums);
    take_means(sums);
    at.first = at.x + apart;
    at.second = at.first + apart;
    if (r + 2 * N < rows) {
      run<Centred, Biased, Past, Centred, true, true>(at, &sums);
    } else if (r + N < rows) {
      run<Centred, Biased, Past, false, true, true>(at, &sums);
    } else {
      run<Centred, Biased, Past, false, false, true>(at, &sums);
    }
    at.x += apart;
    at.out += apart;
  }
}

// Rows shorter than a vector.
template <bool Centred, bool Biased>
void narrow(float* out, const float* x, float count, float epsilon, const float* scale,
            const float* bias, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, out += n, x += n) {
    float sum = 0, squares = 0;
    for (int64_t i = 0; i < n && Centred; ++i) sum += x[i];
    const float mean = sum / count;
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(squares / count + epsilon);
    for (int64_t i = 0; i < n; ++i) {
      const float c = (x[i] - mean) * factor * scale[i];
      out[i] = Biased ? c + bias[i] : c;
    }
  }
}

template <bool Centred, bool Biased, bool Past>
void norm(void* out, const void* in, const void* counts, const void* scales, const void* biases,
          const void* epsilons, int64_t rows, int64_t n) {
  float* const o = static_cast<float*>(out);
  const float* const x = static_cast<const float*>(in);
  const float* const scale = static_cast<const float*>(scales);
  const float* const bias = static_cast<const float*>(biases);
  const float count = *static_cast<const float*>(counts);
  const float epsilon = *static_cast<const float*>(epsilons);
  if (Past && (!begins_line(o) || n * 4 % kLine != 0)) {
    return norm<Centred, Biased, false>(out, in, counts, scales, biases, epsilons, rows, n);
  }
  if (n < kLanes) return narrow<Centred, Biased>(o, x, count, epsilon, scale, bias, rows, n);
  const int64_t pairs = n > kPairs ? 0 : rows / 2 * 2;
  if (pairs > 0) {
    norm_rows<Centred, Biased, Past>(Rows<2>{n, x, x, x, {}, {}, {}, scale, bias, o}, count,
                                     epsilon, pairs);
  }
  if (pairs == rows) return;
  const float* const rest = x + pairs * n;
  norm_rows<Centred, Biased, Past>(
      Rows<1>{n, rest, rest, rest, {}, {}, {}, scale, bias, o + pairs * n}, count, epsilon,
      rows - pairs);
}

}  // namespace

void fill_norm(Kernels* k) {
  k->norm[0][0] = norm<false, false, false>;
  k->norm[0][1] = norm<false, true, false>;
  k->norm[1][0] = norm<true, false, false>;
  k->norm[1][1] = norm<true, true, false>;
  k->norm_past[0][0] = norm<false, false, true>;
  k->norm_past[0][1] = norm<false, true, true>;
  k->norm_past[1][0] = norm<true, false, true>;
  k->norm_past[1][1] = norm<true, true, true>;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
