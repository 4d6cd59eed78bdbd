// Pooling of images whose columns lie side by side. The lines under the windows of a few rows are
// joined into a buffer with a border, then its columns.
#include "cpu/isa/numbers.h"
#include "cpu/kernels.h"

namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS {
namespace {

constexpr int64_t kMostLines = 64;

ONNX_FUSION_INLINE Floats over(Floats x, Floats d, Floats r) {
#if defined(__FMA__) || defined(__aarch64__)
  const Floats q = x * r;
  const Floats better = q + (x - q * d) * r;  // rounds as the division does (Markstein)
  return better == better ? better : q;       // infinities
#else
  (void)r;
  return x / d;
#endif
}

// out[i] = the join of from[k][i] over k < count; no more than n of any are touched. Where F asks
// for it, `seen` becomes NaN if one of them is not finite.
template <class F, int Count>
ONNX_FUSION_INLINE void join_lines(float* out, const float* const* from, int64_t count, int64_t n,
                                   Floats* seen) {
  if (Count > 0) count = Count;
  Floats none = *seen;
  const auto next = [&](Floats a, Floats b) {
    if constexpr (F::kChecks) none += b * 0.0f;
    return F::join(a, b);
  };
  const auto first = [&](Floats a) {
    if constexpr (F::kChecks) none += a * 0.0f;
    return a;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    Floats a = first(load(from[0] + i)), b = first(load(from[0] + i + kLanes));
#pragma GCC unroll 3
    for (int64_t k = 1; k < count; ++k) {
      a = next(a, load(from[k] + i));
      b = next(b, load(from[k] + i + kLanes));
    }
    store(out + i, a);
    store(out + i + kLanes, b);
  }
  if (i + kLanes <= n || (i < n && n >= kLanes)) {  // the last whole vector again covers the rest
    for (;;) {
      if (i + kLanes > n) i = n - kLanes;
      Floats a = first(load(from[0] + i));
#pragma GCC unroll 3
      for (int64_t k = 1; k < count; ++k) a = next(a, load(from[k] + i));
      store(out + i, a);
      i += kLanes;
      if (i >= n) break;
    }
  } else if (i < n) {
    const int rest = static_cast<int>(n);
    Floats a = first(load_some(from[0], rest));
    for (int64_t k = 1; k < count; ++k) a = next(a, load_some(from[k], rest));
    store_some(out, a, rest);
  }
  *seen = none;
}

template <class F>
void lines(float* out, const float* const* from, int64_t count, int64_t n, Floats* seen) {
  if (count == 3) return join_lines<F, 3>(out, from, count, n, seen);
  if (count == 2) return join_lines<F, 2>(out, from, count, n, seen);
  join_lines<F, 0>(out, from, count, n, seen);
}

// Elements 0, Step, 2 * Step, ...; what is behind them may be read.
template <int Step>
ONNX_FUSION_INLINE Floats every(const float* p, int64_t step) {
  if constexpr (Step == 1) {
    return load(p);
  } else if constexpr (Step == 2) {
    return load_even_all(p);
  } else {
    Floats v;
    for (int j = 0; j < kLanes; ++j) v[j] = p[j * step];
    return v;
  }
}

// The columns of one buffered line, joined and divided; d is null if there is no divisor.
template <class F, int Step, int Taps>
ONNX_FUSION_INLINE void columns_of(float* out, const float* from, const PoolRows& p,
                                   const float* d) {
  const int64_t taps = Taps > 0 ? Taps : p.columns.taps;
  const int64_t reach = p.columns.reach, step = p.columns.step;
  for (int64_t q = 0; q < p.outputs; q += kLanes) {
    const float* const x = from + q * step;
    const int64_t rest = p.outputs - q;
    if (Step == 0 && rest < kLanes) {
      for (int64_t j = 0; j < rest; ++j) {
        float a = x[j * step];
        for (int64_t u = 1; u < taps; ++u) a = F::join(a, x[j * step + u * reach]);
        out[q + j] = d != nullptr ? a / d[q + j] : a;
      }
      return;
    }
    Floats a = every<Step>(x, step);
#pragma GCC unroll 3
    for (int64_t u = 1; u < taps; ++u) a = F::join(a, every<Step>(x + u * reach, step));
    if (d != nullptr) a = over(a, load(d + q), load(d + q + p.apart));
    if (rest >= kLanes) {
      store(out + q, a);
    } else {
      store_some(out + q, a, static_cast<int>(rest));
    }
  }
}

template <class F, int Step>
void columns(float* out, const float* from, const PoolRows& p, const float* d) {
  if (p.columns.taps == 3) return columns_of<F, Step, 3>(out, from, p, d);
  if (p.columns.taps == 2) return columns_of<F, Step, 2>(out, from, p, d);
  columns_of<F, Step, 0>(out, from, p, d);
}

// The lines under output row r, from column `begin` of the window's on; returns how many.
ONNX_FUSION_INLINE int64_t lines_under(const PoolRows& p, int64_t r, int64_t begin,
                                       const float** from) {
  int64_t count = 0;
  for (int64_t k = 0; k < p.plane_count; ++k) {
    for (int64_t t = 0; t < p.rows.taps; ++t) {
      const int64_t line = p.rows.step * r + p.rows.reach * t;
      if (line + p.rows.base < 0 || line + p.rows.base >= p.rows.extent) continue;
      from[count++] = p.x + p.planes[k] + line * p.line + begin;
    }
  }
  return count;
}

template <class F>
bool pool_block(const PoolRows& p, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const float* from[kMostLines];
  Floats seen{};
  float* buffer = p.buffer;
  for (int64_t r = first; r < last; ++r, buffer += p.pitch) {
    const int64_t count = end > begin ? lines_under(p, r, begin, from) : 0;
    if (count > 0) {
      lines<F>(buffer + begin, from, count, end - begin, &seen);
    } else {
      for (int64_t j = begin; j < end; ++j) buffer[j] = F::kNothing;
    }
  }
  if (F::kChecks && !all_finite(seen)) return false;
  buffer = p.buffer;
  for (int64_t r = first; r < last; ++r, buffer += p.pitch) {
    float* const out = p.out + (r - p.first) * p.out_row;
    const float* const d = p.divisors != nullptr ? p.divisors[r] : nullptr;
    if (p.columns.step == 1) {
      columns<F, 1>(out, buffer, p, d);
    } else if (p.columns.step == 2) {
      columns<F, 2>(out, buffer, p, d);
    } else {
      columns<F, 0>(out, buffer, p, d);
    }
  }
  return true;
}

// F keeps NaN; Number is the same where there are none.
template <class F, class Number>
void pool(const PoolRows& p) {
  const PoolSide& c = p.columns;
  const int64_t width = c.step * (p.outputs - 1) + c.reach * (c.taps - 1) + 1;
  const int64_t begin = c.base < 0 ? -c.base : 0;
  const int64_t end = c.extent - c.base < width ? c.extent - c.base : width;
  for (int64_t first = p.first; first < p.last; first += p.buffer_lines) {
    const int64_t last = p.last - first < p.buffer_lines ? p.last : first + p.buffer_lines;
    if (!pool_block<Number>(p, first, last, begin, end)) pool_block<F>(p, first, last, begin, end);
  }
}

// The elements of an even index of two vectors, and those of an odd one.
#if defined(__AVX512F__)
#define EVERY_SECOND 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#elif defined(__AVX2__)
#define EVERY_SECOND 0, 2, 4, 6, 8, 10, 12, 14
#else
#define EVERY_SECOND 0, 2, 4, 6
#endif
ONNX_FUSION_INLINE Floats even_of(Floats a, Floats b) {
  return __builtin_shuffle(a, b, Ints{EVERY_SECOND});
}
ONNX_FUSION_INLINE Floats odd_of(Floats a, Floats b) {
  return __builtin_shuffle(a, b, Ints{EVERY_SECOND} + 1);
}
#undef EVERY_SECOND

// The first `count` of two vectors' elements; the others are 0.
ONNX_FUSION_INLINE void load_two(const float* x, int64_t count, Floats* a, Floats* b) {
  const int first = static_cast<int>(count);
  *a = first >= kLanes ? load(x) : load_some(x, first);
  *b = Floats{};
  if (first <= kLanes) return;
  *b = first == 2 * kLanes ? load(x + kLanes) : load_some(x + kLanes, first - kLanes);
}

// Outputs [q, q + kLanes) of a row, as many as there are.
template <class F, int Lines>
ONNX_FUSION_INLINE void pair_vector(const PairRows& p, const float* x, float* out, int64_t count,
                                    Floats* seen) {
  Floats a, b;
  load_two(x, 2 * count, &a, &b);
  if constexpr (F::kChecks) *seen += a * 0.0f + b * 0.0f;
  const int64_t lines = Lines > 0 ? Lines : p.lines;
#pragma GCC unroll 2
  for (int64_t i = 1; i < lines; ++i) {
    Floats c, d;
    x += p.line;
    load_two(x, 2 * count, &c, &d);
    if constexpr (F::kChecks) *seen += c * 0.0f + d * 0.0f;
    a = F::join(a, c);
    b = F::join(b, d);
  }
  a = F::join(even_of(a, b), odd_of(a, b));
  if (p.divisor != 0.0f) a = a / p.divisor;
  if (count >= kLanes) {
    store(out, a);
  } else {
    store_some(out, a, static_cast<int>(count));
  }
}

// False if F asks that all numbers are finite, and some are not.
template <class F, int Lines>
bool pair_rows(const PairRows& p) {
  const int64_t last = p.outputs - kLanes;
  // Rows that lie close together may read, and write, what belongs to later ones.
  Floats seen{};
  for (int64_t r = 0; r < p.rows; ++r) {
    const float* const x = p.x + r * p.row;
    float* const out = p.out + r * p.out_row;
    if (last < 0) {
      const bool near = p.out_row == p.outputs && (p.rows - 1 - r) * p.outputs + last >= 0 &&
                        p.row >= 2 * p.outputs && (p.rows - 1 - r) * p.row + 2 * last >= 0;
      pair_vector<F, Lines>(p, x, out, near ? kLanes : p.outputs, &seen);
      continue;
    }
    for (int64_t q = 0; q < last; q += kLanes) {
      pair_vector<F, Lines>(p, x + 2 * q, out + q, kLanes, &seen);
    }
    pair_vector<F, Lines>(p, x + 2 * last, out + last, kLanes, &seen);
  }
  return !F::kChecks || all_finite(seen);
}

template <class F>
bool pair_lines(const PairRows& p) {
  return p.lines == 2 ? pair_rows<F, 2>(p) : pair_rows<F, 0>(p);
}

// F keeps NaN; Number is the same where there are none.
template <class F, class Number>
void pairs(const PairRows& p) {
  if (!pair_lines<Number>(p)) pair_lines<F>(p);
}

void divide(float* x, int64_t ld, const float* divisors, int64_t apart, int64_t rows, int64_t n) {
  for (int64_t r = 0; r < rows; ++r, x += ld) {
    const Floats d = broadcast(divisors[r]), reciprocal = broadcast(divisors[r + apart]);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, over(load(x + i), d, reciprocal));
    const int rest = static_cast<int>(n - i);
    if (rest > 0) store_some(x + i, over(load_some(x + i, rest), d, reciprocal), rest);
  }
}

}  // namespace

void fill_pool(Kernels* k) {
  k->pairs[0] = pairs<Sum, Sum>;
  k->pairs[1] = pairs<Max, MaxNumber>;
  k->pairs[2] = pairs<Min, MinNumber>;
  k->pool[0] = pool<Sum, Sum>;
  k->pool[1] = pool<Max, MaxNumber>;
  k->pool[2] = pool<Min, MinNumber>;
  k->divide = divide;
}

}  // namespace onnx_fusion::cpu::ONNX_FUSION_ISA_NS
