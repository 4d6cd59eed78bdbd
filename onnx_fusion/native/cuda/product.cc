// Products of matrices by tiles: a block's tile of rows and columns, a step of the sum in shared memory.
// Every operand is computed as it enters shared memory, so whatever comes before the dot is free of
// passes of its own; what comes after it happens to the sums in registers.
#include <algorithm>

#include "cuda/contract.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int kPad = 4;  // floats, so that columns of a tile lie in other banks

struct Tile {
  int rows, columns, step, each;  // each: rows and columns of a thread
};

std::string s(int64_t value) { return std::to_string(value); }

class Printer {
 public:
  Printer(Work& work, const Nest& nest, const Product& product, Tile tile)
      : work_(work), nest_(nest), p_(product), tile_(tile), text_(work.bound, false) {}

  Text& print();

 private:
  void place();
  void fill(const Operand& operand, bool rows);
  void multiply();
  void finish();
  void batch(Body& body);

  Work& work_;
  const Nest& nest_;
  const Product& p_;
  const Tile tile_;
  Text text_;
};

// Which tile a block has.
void Printer::place() {
  const int64_t columns = (p_.n + tile_.columns - 1) / tile_.columns;
  const int64_t rows = (p_.m + tile_.rows - 1) / tile_.rows;
  text_.line("const int thread = threadIdx.x;");
  text_.line("const int tile = blockIdx.x;");
  text_.line("const int tile_row = " + text_.quotient("tile", columns, false) + ";");
  text_.line("const int first_column = (tile - tile_row * " + text_.number(columns, false) + ") * " +
             s(tile_.columns) + ";");
  text_.line("const int batch = " + text_.quotient("tile_row", rows, false) + ";");
  text_.line("const int first_row = (tile_row - batch * " + text_.number(rows, false) + ") * " +
             s(tile_.rows) + ";");
}

void Printer::batch(Body& body) {
  body.memory_aligned = work_.device.aligned;
  body.decompose("batch", p_.batch_order);
}

// A step's part of an operand, to tile_a or tile_b: [step][rows].
void Printer::fill(const Operand& operand, bool rows) {
  Body body(nest_, text_);
  const int extent = rows ? tile_.rows : tile_.columns;
  const int64_t whole = rows ? p_.m : p_.n;
  const std::vector<int>& along = operand.sum_fastest ? operand.sum : operand.own;
  if (!along.empty()) choose_lanes(body, along.back());
  if (body.lanes > 4) body.lanes = 4;
  const int lanes = body.lanes;
  const int in_step = operand.sum_fastest ? tile_.step / lanes : tile_.step;
  const int in_extent = operand.sum_fastest ? extent : extent / lanes;
  const int count = in_step * in_extent;
  const std::string fast = operand.sum_fastest ? s(in_step) : s(in_extent);
  text_.line("#pragma unroll");
  body.enter("for (int f = thread; f < " + s(count) + "; f += " + s(kThreads) + ")");
  const std::string by = lanes > 1 ? " * " + s(lanes) : "";
  const std::string sum_at = operand.sum_fastest ? "f % " + fast + by : "f / " + fast;
  const std::string own_at = operand.sum_fastest ? "f / " + fast : "f % " + fast + by;
  text_.line("const int in_sum = " + sum_at + ", in_tile = " + own_at + ";");
  // What lies beside the matrix is read at its border, and counts as 0 beyond the sum's end.
  const int sum_lanes = operand.sum_fastest ? lanes : 1, own_lanes = operand.sum_fastest ? 1 : lanes;
  text_.line("const int k = min(first_sum + in_sum, " + text_.number(p_.k, false) + " - " +
             s(sum_lanes) + ")" + (sum_lanes > 1 ? " / " + s(sum_lanes) : "") + ";");
  text_.line("const int m = min(" + std::string(rows ? "first_row" : "first_column") + " + in_tile, " +
             text_.number(whole, false) + " - " + s(own_lanes) + ")" +
             (own_lanes > 1 ? " / " + s(own_lanes) : "") + ";");
  batch(body);
  body.decompose("k", operand.sum, sum_lanes);
  body.decompose("m", operand.own, own_lanes);
  body.need(operand.line);
  const std::string to = rows ? "tile_a" : "tile_b";
  const std::string stride = s(extent + kPad);
  for (int lane = 0; lane < lanes; ++lane) {
    const std::string value = body.name(operand.line, lane);
    const std::string at = operand.sum_fastest ? "(in_sum + " + s(lane) + ") * " + stride + " + in_tile"
                                               : "in_sum * " + stride + " + in_tile + " + s(lane);
    text_.line(to + "[" + at + "] = first_sum + in_sum < " + text_.number(p_.k, false) + " ? " + value +
               " : 0.0f;");
  }
  body.leave();
}

void Printer::multiply() {
  const int each = tile_.each;
  text_.line("#pragma unroll");
  text_.open("for (int k = 0; k < " + s(tile_.step) + "; ++k)");
  text_.line("Pack<float, 4> x[" + s(each / 4) + "], y[" + s(each / 4) + "];");
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(each / 4) + "; ++i)");
  const std::string apart_a = s(tile_.rows / (each / 4)), apart_b = s(tile_.columns / (each / 4));
  text_.line("x[i] = *(const Pack<float, 4>*)(tile_a + k * " + s(tile_.rows + kPad) + " + i * " + apart_a +
             " + thread_row);");
  text_.line("y[i] = *(const Pack<float, 4>*)(tile_b + k * " + s(tile_.columns + kPad) + " + i * " +
             apart_b + " + thread_column);");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(each) + "; ++i)");
  text_.line("#pragma unroll");
  text_.line("for (int j = 0; j < " + s(each) +
             "; ++j) sums[i][j] = fmaf(x[i / 4].at[i % 4], y[j / 4].at[j % 4], sums[i][j]);");
  text_.close();
  text_.close();
}

// What follows the dot, for a thread's sums.
void Printer::finish() {
  const int each = tile_.each;
  Body body(nest_, text_);
  const int letter = p_.b.own.empty() ? -1 : p_.b.own.back();
  if (letter >= 0) choose_lanes(body, letter);
  if (body.lanes > 4) body.lanes = 4;
  const int lanes = body.lanes;
  batch(body);
  const std::string apart_a = s(tile_.rows / (each / 4)), apart_b = s(tile_.columns / (each / 4));
  text_.line("#pragma unroll");
  body.enter("for (int i = 0; i < " + s(each) + "; ++i)");
  text_.line("const int m = first_row + i / 4 * " + apart_a + " + thread_row + i % 4;");
  text_.line("if (m >= " + text_.number(p_.m, false) + ") continue;");
  body.decompose("m", p_.a.own);
  text_.line("#pragma unroll");
  body.enter("for (int j = 0; j < " + s(each) + "; j += " + s(lanes) + ")");
  text_.line("const int n = first_column + j / 4 * " + apart_b + " + thread_column + j % 4;");
  text_.line("if (n >= " + text_.number(p_.n, false) + ") continue;");
  if (lanes > 1) text_.line("const int run = n / " + s(lanes) + ";");
  body.decompose(lanes > 1 ? "run" : "n", p_.b.own, lanes);
  for (int lane = 0; lane < lanes; ++lane) {
    text_.line("const float sum" + (body.by_lane(p_.dot) ? "_" + s(lane) : "") + " = sums[i][j + " +
               s(lane) + "];");
  }
  body.give(p_.dot, "sum", body.by_lane(p_.dot));
  for (int line : nest_.stores) body.store(line);
  body.leave();
  body.leave();
}

Text& Printer::print() {
  const int across = tile_.columns / tile_.each;
  place();
  text_.line("float* const tile_a = (float*)shared_bytes();");
  text_.line("float* const tile_b = tile_a + " + s(tile_.step * (tile_.rows + kPad)) + ";");
  text_.line("const int thread_row = thread / " + s(across) + " * 4;");
  text_.line("const int thread_column = thread % " + s(across) + " * 4;");
  text_.line("float sums[" + s(tile_.each) + "][" + s(tile_.each) + "] = {};");
  text_.open("for (int first_sum = 0; first_sum < " + text_.number(p_.k, false) + "; first_sum += " +
             s(tile_.step) + ")");
  fill(p_.a, true);
  fill(p_.b, false);
  text_.line("__syncthreads();");
  multiply();
  text_.line("__syncthreads();");
  text_.close();
  finish();
  return text_;
}

}  // namespace

Status plan_product(Work& work, size_t stage, const Nest& nest, const Product& product) {
  const auto tiles = [&](int size) {
    return product.batches * ((product.m + size - 1) / size) * ((product.n + size - 1) / size);
  };
  const bool large = product.m >= 128 && product.n >= 128 && tiles(128) >= work.device.processors;
  const Tile tile = large ? Tile{128, 128, 8, 8} : Tile{64, 64, 16, 4};
  Printer printer(work, nest, product, tile);
  const Text& text = printer.print();
  Shape shape;
  shape.grid[0] = tiles(tile.rows);
  shape.block[0] = kThreads;
  shape.shared_bytes = 4 * tile.step * (tile.rows + tile.columns + 2 * kPad);
  return work.add(stage, "product", text, shape);
}

}  // namespace onnx_fusion::cuda
