// Strands in tile programs: passes that follow one another become one step.
#pragma once

#include <vector>

#include "cpu/strand_kernels.h"

namespace onnx_fusion::cpu {

// The links of a strand, with the slots of their other operands.
struct Strand {
  struct Link {
    StrandFunction run;
    int slot = -1;
  };
  std::vector<Link> links;
  double cost = 0;  // estimated nanoseconds per point
};

}  // namespace onnx_fusion::cpu
