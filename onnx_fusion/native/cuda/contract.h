// A dot as a product of matrices: which letters are rows, columns and the sum's, and the tiles.
#pragma once

#include <string>
#include <vector>

#include "cuda/body.h"
#include "cuda/work.h"

namespace onnx_fusion::cuda {

// How a dot multiplies: floats by fmaf, or halves by the tensor cores, with f32 sums.
enum class Unit : uint8_t { fmaf, f16, bf16, tf32 };

struct Operand {
  int line = -1;                // the value that is multiplied, or its half if it is a cast from one
  std::vector<int> own, sum;    // letters, slowest first: of the rows (or columns), of the sum
  bool sum_fastest = false;     // do neighbours in memory lie along the sum
};

struct Product {
  int dot = -1;
  Unit unit = Unit::fmaf;
  LetterSet batch = 0, rows = 0, columns = 0, sum = 0;
  int64_t m = 1, n = 1, k = 1, batches = 1;
  Operand a, b;  // rows and columns
  std::vector<int> batch_order;
};

// False if a stage's dot is not a product of matrices, or one too thin for tiles.
bool find_product(const Nest& nest, const Device& device, Product* product);

// A value as the unit multiplies it.
std::string as_element(Unit unit, DType dtype, const std::string& value);

Status plan_product(Work& work, size_t stage, const Nest& nest, const Product& product);
// After a launch that left `splits` parts of every sum in a buffer.
Status add_parts(Work& work, size_t stage, const Nest& nest, const Product& product, int64_t splits,
                 int partial);

}  // namespace onnx_fusion::cuda
