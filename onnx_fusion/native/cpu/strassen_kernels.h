// What a product by Strassen's seven products needs of an ISA.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

inline constexpr int kStrassenProducts = 7, kStrassenSums = 5;

// The seven products of a pair of rows, to the rows' results.
struct StrassenJoin {
  const float* products;
  int64_t product;         // floats between products
  int64_t columns;         // of a half: a multiple of the lanes
  float *upper[2], *lower[2];  // left half and right half
};

// What is there of them before the last two: m0 + m3 - m4, m0 - m1 + m2, m2 + m4 and m1 + m3 take
// the places of m0 to m3. `more` is added to the first two, as far as it goes; null if there is
// none.
struct StrassenMeeting {
  float* products;
  int64_t product;
  int64_t columns;
  const float* more[2];
  int64_t more_columns[2];
};

struct StrassenKernels {
  // The largest absolute value's bits; a NaN's are larger than any number's. count >= the lanes.
  uint32_t (*largest)(const float* row, int64_t count);
  // Sums of `count` elements of the halves of two rows, a = (a1, a2) and b = (b1, b2), `step`
  // floats apart: a1 + b2, b1 + b2, a1 + a2, b1 - a1, a2 - b2. count >= the lanes. Sets what
  // `largest` says of either row's elements, and fetches the next two rows' meanwhile.
  void (*sums)(const float* const* rows, const float* const* next, int64_t half, int64_t count,
               float* out, int64_t step, uint32_t* most);
  void (*join)(const StrassenJoin& join);
  void (*meet)(const StrassenMeeting& meeting);
};

// The ISA's in use.
const StrassenKernels& strassen_kernels();

}  // namespace onnx_fusion::cpu
