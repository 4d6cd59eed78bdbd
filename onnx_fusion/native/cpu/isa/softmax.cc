// Softmax and its logarithm over rows. Three passes over a row, each of which waits for what the
// one before it reduced; so they run over three rows at once, in one loop:
//
//   row r + 2   the highest
//   row r       exponentials and their sum
//   row r - 2   the quotients (or differences)
//
// What is behind whole vectors is one more vector that ends where the row does, loaded before
// anything is stored there.
#include <cmath>

#include "cpu/isa/row_math.h"
#include "cpu/isa/stream.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int64_t kSum = 2048;           // elements summed before they join the others
constexpr int64_t kLongRow = 2048;       // from here on five rows are in each other's way,
constexpr int64_t kVeryLongRow = 16384;  // and three
constexpr int kAtOnce = 2;               // vectors whose exponentials are computed together

enum Result { kQuotients, kExactQuotients, kLogarithms };

// What becomes of e = exp(x - top), or of x, when the sum is known.
template <Result R>
struct Finish {
  Divisor by;
  Floats top, lost;

  Finish(float highest, float sum)
      : by(R == kLogarithms ? 1.0f : sum),
        top(broadcast(highest)),
        lost(broadcast(R == kLogarithms ? std::log(sum) : 0.0f)) {}
  __attribute__((always_inline)) Floats of(Floats v) const {
    if constexpr (R == kLogarithms) return (v - top) - lost;
    if constexpr (R == kExactQuotients) return by.divides ? v / by.d : by.share(v);
    return v * by.r;
  }
};

struct Rows {
  int64_t n;
  const float* ahead;  // of which the highest is returned
  const float* x;      // of which exponentials are summed
  float* e;            // and stored
  float top;
  const float* from;   // what is finished
  float* to;
};

template <Result R, bool Past, bool Ahead, bool Back>
ONNX_FUSION_INLINE void run(const Rows& at, const Finish<R>& finish, float* high, float* sum) {
  constexpr bool kStores = R != kLogarithms;
  const int64_t n = at.n, left = n % kLanes, behind = n - kLanes;
  const Floats top = broadcast(at.top);
  Floats most_of[kAtOnce], parts[kAtOnce];
  for (int v = 0; v < kAtOnce; ++v) most_of[v] = broadcast(-kInf);
  Floats last_x{}, last_from{};
  if (left > 0) {
    last_x = load(at.x + behind);
    if (Back) last_from = load(at.from + behind);
    if (Ahead) most_of[0] = load(at.ahead + behind);
  }
  float all = 0;
  const auto some = [&](int64_t i, auto count) __attribute__((always_inline)) {
    constexpr int N = decltype(count)::value;
    Floats a[N], b[N];
#pragma GCC unroll 2
    for (int v = 0; v < N; ++v) {
      a[v] = load(at.x + i + v * kLanes) - top;
      if (Past && Ahead && v * kLanes % kLineFloats == 0) fetch(at.ahead + i + v * kLanes);
      if (Ahead) most_of[v] = most(most_of[v], load(at.ahead + i + v * kLanes));
      if (Back) b[v] = load(at.from + i + v * kLanes);
    }
    exp_negative<N>(a);
#pragma GCC unroll 2
    for (int v = 0; v < N; ++v) {
      if (kStores) store(at.e + i + v * kLanes, a[v]);
      parts[v] += a[v];
      if (Back) put<Past>(at.to + i + v * kLanes, finish.of(b[v]));
    }
  };
  for (int64_t begin = 0; begin < n; begin += kSum) {
    const int64_t end = n - begin < kSum ? n : begin + kSum;
    for (int v = 0; v < kAtOnce; ++v) parts[v] = Floats{};
    int64_t i = begin;
    for (; i + kAtOnce * kLanes <= end; i += kAtOnce * kLanes) {
      some(i, std::integral_constant<int, kAtOnce>{});
    }
    for (; i + kLanes <= end; i += kLanes) some(i, std::integral_constant<int, 1>{});
    if (i < end) {
      Floats a[1] = {last_x - top};
      exp_negative<1>(a);
      if (kStores) store(at.e + behind, a[0]);
      Ints lane;
      for (int l = 0; l < kLanes; ++l) lane[l] = l;
      parts[0] += lane < static_cast<int32_t>(kLanes - left) ? Floats{} : a[0];
      if (Back) store(at.to + behind, finish.of(last_from));
    }
    for (int v = 1; v < kAtOnce; ++v) parts[0] += parts[v];
    all += across<Add>(parts[0]);
  }
  *sum = all;
  for (int v = 1; v < kAtOnce; ++v) most_of[0] = most(most_of[0], most_of[v]);
  if (Ahead) *high = across<Larger>(most_of[0]);
}

template <Result R>
void finish_past(float* out, const float* from, int64_t n, const Finish<R>& finish) {
  int64_t i = 0;
  const auto some = [&](int64_t end) {
    for (; i < end; ++i) out[i] = finish.of(broadcast(from[i]))[0];
  };
  some(static_cast<int64_t>(-reinterpret_cast<uintptr_t>(out) % kLine / sizeof(float)));
  for (; i + kLineFloats <= n; i += kLineFloats) {
#pragma GCC unroll 4
    for (int v = 0; v < kLineFloats; v += kLanes)
      put<true>(out + i + v, finish.of(load(from + i + v)));
  }
  some(n);
}

template <Result R, bool Past>
void finish_row(float* out, const float* from, int64_t n, const Finish<R>& finish) {
  if (Past) return finish_past(out, from, n, finish);
  const int64_t behind = n - kLanes;
  const Floats last = load(from + behind);
  int64_t i = 0;
  for (; i + 2 * kLanes <= behind; i += 2 * kLanes) {
    const Floats a = load(from + i), b = load(from + i + kLanes);
    store(out + i, finish.of(a));
    store(out + i + kLanes, finish.of(b));
  }
  for (; i < behind; i += kLanes) store(out + i, finish.of(load(from + i)));
  store(out + behind, finish.of(last));
}

// Rows shorter than a vector.
template <Result R>
void narrow(float* out, const float* x, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, out += n, x += n) {
    const Floats v = load_some(x, n, -kInf);
    const float top = across<Larger>(v);
    Floats e[1] = {v - top};
    exp_negative<1>(e);
    // Behind the row stands exp(-inf), or NaN if the highest is infinite.
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += e[0][i];
    const Finish<R> finish(top, sum);
    store_some(out, finish.of(R == kLogarithms ? v : e[0]), static_cast<int>(n));
  }
}

// What is written past the caches has its exponentials in `room`, some rows in turn.
template <Result R, bool Past>
void softmax(void* out, const void* in, const void* room, const void*, const void*, const void*,
             int64_t rows, int64_t n) {
  float* const o = static_cast<float*>(out);
  const float* const x = static_cast<const float*>(in);
  if (Past && n < kVeryLongRow && (!begins_line(o) || n * 4 % kLine != 0)) {
    return softmax<R, false>(o, x, nullptr, nullptr, nullptr, nullptr, rows, n);
  }
  if (n < kLanes) return narrow<R>(o, x, rows, n);
  if (n >= kVeryLongRow && rows > 1) {
    for (int64_t r = 0; r < rows; ++r) {
      softmax<R, Past>(o + r * n, x + r * n, room, nullptr, nullptr, nullptr, 1, n);
    }
    return;
  }
  constexpr int kRing = 4;
  float tops[kRing], sums[kRing];
  const int64_t apart = n < kLongRow ? 2 : 1;
  float* const powers = Past ? static_cast<float*>(const_cast<void*>(room)) : o;
  const auto power = [&](int64_t r) __attribute__((always_inline)) {
    return powers + (Past ? r % (apart + 1) : r) * n;
  };
  const auto from = [&](int64_t r) __attribute__((always_inline)) {
    return R == kLogarithms ? x + r * n : power(r);
  };
  for (int64_t r = 0; r < apart && r < rows; ++r) tops[r % kRing] = largest(x + r * n, n);
  const auto finish = [&](int64_t r) __attribute__((always_inline)) {
    return Finish<R>(tops[r % kRing], sums[r % kRing]);
  };
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t next = r + apart, back = r - apart;
    Rows at{n, x + next * n, x + r * n, power(r), tops[r % kRing], nullptr, nullptr};
    float* const high = &tops[next % kRing];
    float* const sum = &sums[r % kRing];
    if (back >= 0) {
      at.from = from(back);
      at.to = o + back * n;
    }
    if (back < 0) {
      if (next < rows) {
        run<R, Past, true, false>(at, Finish<R>(0, 1), high, sum);
      } else {
        run<R, Past, false, false>(at, Finish<R>(0, 1), high, sum);
      }
    } else if (next < rows) {
      const Finish<R> by = finish(back);  // whose top is in the place where the next will be
      run<R, Past, true, true>(at, by, high, sum);
    } else {
      run<R, Past, false, true>(at, finish(back), high, sum);
    }
  }
  for (int64_t r = rows > apart ? rows - apart : 0; r < rows; ++r) {
    finish_row<R, Past>(o + r * n, from(r), n, finish(r));
  }
}

}  // namespace

void fill_softmax(Kernels* k) {
  k->softmax[0] = softmax<kQuotients, false>;
  k->softmax[1] = softmax<kExactQuotients, false>;
  k->log_softmax = softmax<kLogarithms, false>;
  k->softmax_past[0] = softmax<kQuotients, true>;
  k->softmax_past[1] = softmax<kExactQuotients, true>;
  k->log_softmax_past = softmax<kLogarithms, true>;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
