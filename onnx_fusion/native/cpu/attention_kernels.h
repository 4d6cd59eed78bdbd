// What an attention needs of an ISA beside the register tiles of contract_kernels.h.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// Rows of scores, whole or a block of their keys, that become exp(x - highest so far).
struct SoftmaxRows {
  float* scores;  // what lies behind `columns`, to a whole vector, may be written
  int64_t ld, rows, columns;
  float scale;              // x = score * scale + planes[0] + planes[1]
  const float* planes[2];   // null if there is none
  const int64_t* plane_rows[2];  // per row: where it begins in the plane
  float* highest;  // per row, in and out; -inf to begin with
  float* sums;     // of what was written so far
  float* rescale;  // by what everything written before is to be multiplied; null: nothing was
};

// out[out_rows[r] + c] = x[r * ld + c] / sums[r]
struct DividedRows {
  const float* x;
  int64_t ld, rows, columns;
  const float* sums;
  float* out;
  const int64_t* out_rows;
};

struct AttentionKernels {
  void (*softmax)(const SoftmaxRows& rows);
  // out[c] = (add ? out[c] : 0) + the sum over p < k of a[p] * b[p * b_step + c], for c < columns.
  void (*mix)(int64_t k, const float* a, const float* b, int64_t b_step, int64_t columns,
              float* out, bool add);
  // out[j] = (add ? out[j] : 0) + the sum over p < k of a[p] * b[offsets[j] + p], for j < count.
  void (*dots)(int64_t k, const float* a, const float* b, const int64_t* offsets, int64_t count,
               float* out, bool add);
  // The largest |x[i]|, i < count; infinity if any is NaN.
  float (*magnitude)(const float* x, int64_t count);
  // A multiple of 16, or `count`, from which on all x[i] < least.
  int64_t (*live)(const float* x, int64_t count, float least);
  // x[r * ld + c] *= factors[r]
  void (*scale)(float* x, int64_t ld, int64_t rows, int64_t columns, const float* factors);
  void (*divide)(const DividedRows& rows);
};

// The ISA's in use.
const AttentionKernels& attention_kernels();

}  // namespace onnx_fusion::cpu
