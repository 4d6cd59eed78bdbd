// Strands: element-wise f32 links that follow one another on values that stay in registers. The
// function of each link ends with a jump to the next one's, and the values are its arguments.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

enum StrandOp : int {
  // The other operand is one number, or as many elements.
  kStrandAdd,
  kStrandSub,
  kStrandRsub,
  kStrandMul,
  kStrandDiv,
  kStrandRdiv,
  kStrandMin,
  kStrandMax,
  kStrandAtMost,   // not NaN
  kStrandAtLeast,  // not NaN
  kStrandOver,     // a number: as div, by its reciprocal
  // There is none.
  kStrandSquare,
  kStrandNeg,
  kStrandAbs,
  kStrandSqrt,
  kStrandFloor,
  kStrandCeil,
  kStrandRound,
  kStrandExp,
  kStrandSigmoid,
  kStrandTanh,
  kStrandErf,
  kStrandSilu,
  kStrandSoftplus,
  kStrandTanhSoftplus,
  kStrandMish,
  // The values are elements, or become them.
  kStrandTake,
  kStrandFetch,  // takes, and fetches what comes later
  kStrandKeep,
  kStrandLast,  // keeps, and ends the strand
  kStrandPast,  // the same, past the caches
  kStrandOps
};

inline constexpr int kMostLinks = 48;

// The ISA's function for a block of vectors, and for one vector of which some lanes count.
struct StrandFunction {
  void (*block)();
  void (*part)();
};

struct StrandLink {
  StrandFunction run;
  float* at;  // the other operand
};

struct StrandKernels {
  StrandFunction links[kStrandOps][2];  // the second: the other operand is as many elements
  // Runs links, the first of which takes and the last of which is kStrandLast or kStrandPast, over
  // n elements.
  void (*run)(const StrandLink* links, int64_t n);
};

// The ISA's in use.
const StrandKernels& strand_kernels();

}  // namespace onnx_fusion::cpu
