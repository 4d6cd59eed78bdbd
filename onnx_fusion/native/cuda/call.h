// Products that cuBLASLt can make: operands that lie in memory as matrices do.
#pragma once

#include <vector>

#include "cuda/contract.h"

namespace onnx_fusion::cuda {

struct LibraryProduct {
  Call call;
  int a = -1, b = -1;             // tensors
  int d = -1, c = -1, bias = -1;  // where the call itself can do all that follows the dot
  int64_t rows = 0;               // of a part
  int64_t parts = 1;
};

// False if the library cannot make it.
bool find_call(const Work& work, const Nest& nest, const Product& product, LibraryProduct* found);

// The call and, unless it does all that follows the dot, a launch behind it that does, on float32
// sums.
Status plan_call(Work& work, size_t stage, const Nest& nest, const Product& product,
                 const LibraryProduct& found, bool by_parts);

}  // namespace onnx_fusion::cuda
