// The one-dimensional passes that an ISA gives to the tile machine.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "instructions.h"

namespace onnx_fusion::cpu {

// out[i] = f(a[i], b[i], c[i]) for i < n; out may be exactly a, b or c.
using Pass = void (*)(void* out, const void* a, const void* b, const void* c, int64_t n);

// Which operands of a pass are one element instead of n.
enum Splat : int { kSplatNone, kSplatSecond, kSplatFirst };

inline constexpr int kElementwise = static_cast<int>(Op::op_reduce_sum);
inline constexpr int kComputeTypes = 5;  // f32 f64 i32 i64 bool
inline constexpr int kSizes = 4;         // 1 2 4 8 bytes
inline constexpr int kTypes = 13;

// Cheap f32 instructions that may be joined two by two: out = outer(inner(a, b), c), where `c` may
// stand on either side of `outer`. The last two are min and max with a constant that is not NaN,
// which are one machine instruction.
enum ChainOp : int {
  kChainAdd,
  kChainSub,
  kChainRsub,
  kChainMul,
  kChainMin,
  kChainMax,
  kChainAtMost,
  kChainAtLeast,
  kChainOps
};

struct ReducePasses {
  // out[r] = the reduction of in[r * length .. + length), rows of any length.
  void (*rows)(void* out, const void* in, int64_t rows, int64_t length);
  // out[j] = the reduction of in[r * lanes + j] over r.
  void (*lanes)(void* out, const void* in, int64_t rows, int64_t lanes);
  // acc[j] = acc[j] joined with in[j].
  void (*join)(void* acc, const void* in, int64_t n);
};

// out[j] = the reduction over k < count of base[offsets[k] + j * stride], for j < lanes; count > 0.
using WindowPass = void (*)(float* out, const float* base, const int64_t* offsets, int64_t count,
                            int64_t stride, int64_t lanes);

// out[r * out_row + q] = the reduction of x[r * row + i * line + 2 * q] and of what is behind it,
// over i < lines, for r < rows and q < outputs; then over `divisor`, unless that is 0.
struct PairRows {
  float* out;
  const float* x;
  int64_t out_row, row, line;
  int64_t lines, rows, outputs;
  float divisor;
};

// Rows of one plane's windows. Tap t of output row r is the line step * r + reach * t of x, if that
// plus base is one of `extent` lines; columns are alike. Each window is joined over the planes at
// `planes` from x.
struct PoolSide {
  int64_t step, reach, taps, base, extent;
};
struct PoolRows {
  float* out;  // of row `first`
  int64_t out_row;
  const float* x;  // where tap 0 of output row 0 and column 0 would be
  int64_t line;
  const int64_t* planes;
  int64_t plane_count;
  PoolSide rows, columns;
  int64_t first, last;  // output rows
  int64_t outputs;      // of a row
  // By output row, null if there are none: divisors of a row's outputs, and their reciprocals
  // `apart` behind.
  const float* const* divisors;
  int64_t apart;
  float* buffer;  // buffer_lines of `pitch` floats, each filled with what is outside
  int64_t pitch, buffer_lines;
};
inline constexpr int64_t kPoolSlack = 64;  // floats behind a line of the buffer, or of divisors

// A whole idiom over rows of `length`; operands that an idiom does not have are not read.
using Idiom = void (*)(void* out, const void* a, const void* b, const void* c, const void* d,
                       const void* e, int64_t rows, int64_t length);

// How a row meets its value: times it, over it as division rounds, or times its reciprocal.
enum Scaling : int { kScalesTimes, kScalesOver, kScalesAbout, kScalings };

struct Kernels {
  Pass unary[kElementwise][kComputeTypes];
  Pass binary[kElementwise][kComputeTypes][3];  // by Splat
  Pass cast[kTypes][kTypes];                    // [from][to]
  Pass where[kSizes][4];                        // bit 0: b (true side) is splat, bit 1: c is
  Pass chain[kChainOps][kChainOps][4];          // [inner][outer], bit 0: b is splat, bit 1: c is
  Pass clip;                                    // min(max(a, b[0]), c[0]), not NaN
  Pass silu;                                    // a * sigmoid(a)
  Pass softplus;                                // log(1 + exp(a))
  Pass tanh_softplus;                           // and its tanh
  Pass mish;                                    // a * tanh_softplus(a)
  Pass shifted[3][2];                           // tanh, erf, sigmoid of a * or / b[0], plus c[0]
  Pass exp_sub[2];                              // exp(a - b), b splat in the second
  ReducePasses reduce[4][4];                    // [op - reduce_sum][type]
  ReducePasses squares;                         // sum of squares of f32, `rows` only
  Idiom softmax[2];                             // of rows of a; the second divides exactly
  Idiom log_softmax;
  // The same, written past the caches where rows are whole lines, or long; b is room for the tile.
  Idiom softmax_past[2], log_softmax_past;
  Idiom center;  // a - mean, and b = sums of its squares; c: the count
  Idiom moments;                                // those sums, and b = the means
  // (a - e[row], if the first index is 1) * or / b[row], then * c, then + d if the third is 1. If
  // the last is 1, c and d are one row for all.
  Idiom scale[2][kScalings][2][2];
  // a / sqrt(the mean of its squares + e[0]) * c + d, where b[0] is the count and c and d are one
  // row; a less its mean, if the first index is 1; plus d, if the second is.
  Idiom norm[2][2];
  Idiom norm_past[2][2];  // the same, written past the caches where rows are whole lines
  WindowPass window[3];  // sum, max, min of f32
  void (*pairs[3])(const PairRows& rows);  // the same
  void (*pool[3])(const PoolRows& rows);  // the same
  // x[r * ld + i] over divisors[r], whose reciprocals are `apart` behind.
  void (*divide)(float* x, int64_t ld, const float* divisors, int64_t apart, int64_t rows,
                 int64_t n);

  void (*fill[kSizes])(void* out, const void* value, int64_t n);
  // out[i] = in[i * stride]; out[i * stride] = in[i]
  void (*pick[kSizes])(void* out, const void* in, int64_t stride, int64_t n);
  void (*spread[kSizes])(void* out, int64_t stride, const void* in, int64_t n);
  // out[i] = offsets[i] < 0 ? *otherwise : in[offsets[i]]
  void (*gather[kSizes])(void* out, const void* in, const int64_t* offsets, const void* otherwise,
                         int64_t n);
  // out[c * rows + r] = in[r * stride + c]
  void (*transpose[kSizes])(void* out, int64_t out_stride, const void* in, int64_t in_stride,
                            int64_t rows, int64_t columns);
  // out[r * out_step + i * out_stride] = in[r * in_step + i * in_stride], i < n, r < rows; an
  // in_stride of 0 fills.
  void (*copy[kSizes])(void* out, int64_t out_step, int64_t out_stride, const void* in,
                       int64_t in_step, int64_t in_stride, int64_t n, int64_t rows);
  // Copies past the caches. What `drain` comes after is seen by whom the thread then tells of it.
  void (*stream)(void* out, const void* in, int64_t bytes);
  void (*drain)();
  // Each of in[0..rows) repeated `length` times.
  void (*repeat[kSizes])(void* out, const void* in, int64_t rows, int64_t length);
  void (*iota)(int64_t* out, int64_t first, int64_t step, int64_t n);
};

// The chosen ISA's.
const Kernels& kernels();

constexpr int compute_type(DType d) {
  return d == DType::f32       ? 0
         : d == DType::f64     ? 1
         : d == DType::i32     ? 2
         : d == DType::i64     ? 3
         : d == DType::boolean ? 4
                               : -1;
}
constexpr int size_index(DType d) {
  const size_t size = dtype_size(d);
  return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

}  // namespace onnx_fusion::cpu
