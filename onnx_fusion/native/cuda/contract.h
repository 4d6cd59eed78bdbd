// A dot as a product of matrices: which letters are rows, columns and the sum's, and the tiles.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cuda/body.h"
#include "cuda/work.h"

namespace onnx_fusion::cuda {

// How a dot multiplies: floats by fmaf, or halves by the tensor cores, with f32 sums.
enum class Unit : uint8_t { fmaf, f16, bf16, tf32 };

struct Operand {
  int line = -1;  // the value that is multiplied, or its half if it is a cast from one
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

// A block's part of a product.
struct Tile {
  int rows, columns;
  int step;  // elements of the sum
  int each;  // fmaf: rows and columns of a thread
  // Of the sum, for different blocks, that a second launch adds up: `chunk` terms each, to
  // `partial`.
  int64_t splits = 1, chunk = 0;
  int partial = -1;
};

// False if a stage's dot is not a product of matrices, or one too thin for tiles.
bool find_product(const Nest& nest, const Device& device, Product* product);

// A value as the unit multiplies it.
std::string as_element(Unit unit, DType dtype, const std::string& value);

// Prints which tile the block has: first_row, first_column, batch; which part of it a warp of the
// tensor cores has, and its sums; and from where to where the block's sum goes.
void place_tile(Text& text, const Product& p, const Tile& tile);
void place_warp(Text& text, const Tile& tile);
std::pair<std::string, std::string> sum_range(Text& text, const Product& p, const Tile& tile);
// Prints what follows the dot, for a thread's sums.
void finish_product(const Work& work, const Nest& nest, const Product& p, const Tile& tile,
                    Text& text);

// Do both operands lie in memory as tensor cores take them, so that cp.async can copy them?
bool copies(const Work& work, const Nest& nest, const Product& product);
Status plan_copied(Work& work, size_t stage, const Nest& nest, const Product& product,
                   const Tile& tile, const std::string& schedule);

Status plan_product(Work& work, size_t stage, const Nest& nest, const Product& product);
// Sums that a launch left in a buffer: `count` parts of each, of all rows or some.
struct Parts {
  int buffer;
  int64_t count, first_row = 0, rows = 0;
};
Status add_parts(Work& work, size_t stage, const Nest& nest, const Product& product,
                 const Parts& parts);

}  // namespace onnx_fusion::cuda
