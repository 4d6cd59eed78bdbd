// What all products share: which tile a block has, and what happens to its sums.
#include <algorithm>

#include "cuda/contract.h"

namespace onnx_fusion::cuda {
namespace {

std::string s(int64_t value) { return std::to_string(value); }

// A part of the sum goes to memory as [split][batch][row][column].
void keep_partial(const Product& p, const Tile& tile, Text& text, int lanes) {
  const std::string to = text.scratch(tile.partial, DType::f32, true);
  const std::string place = "((blockIdx.y * " + text.number(p.batches, false) + " + batch) * " +
                            text.number(p.m, false) + " + m) * " + text.number(p.n, false) + " + n";
  if (lanes == 1) {
    text.line(to + "[" + place + "] = sum;");
    return;
  }
  std::string list;
  for (int lane = 0; lane < lanes; ++lane) list += (lane > 0 ? ", sum_" : "sum_") + s(lane);
  text.line("*(Pack<float, " + s(lanes) + ">*)(" + to + " + " + place + ") = {{" + list + "}};");
}

}  // namespace

void place_tile(Text& text, const Product& p, const Tile& tile) {
  const int64_t columns = (p.n + tile.columns - 1) / tile.columns;
  const int64_t rows = (p.m + tile.rows - 1) / tile.rows;
  text.line("const int thread = threadIdx.x;");
  text.line("const int tile = blockIdx.x;");
  text.line("const int tile_row = " + text.quotient("tile", columns, false) + ";");
  text.line("const int first_column = (tile - tile_row * " + text.number(columns, false) + ") * " +
            s(tile.columns) + ";");
  text.line("const int batch = " + text.quotient("tile_row", rows, false) + ";");
  text.line("const int first_row = (tile_row - batch * " + text.number(rows, false) + ") * " +
            s(tile.rows) + ";");
}

void place_warp(Text& text, const Tile& tile) {
  text.line("const int lane = thread % 32;");
  text.line("const int warp_row = thread / 32 / 4 * " + s(tile.rows / 2) + ";");
  text.line("const int warp_column = thread / 32 % 4 * " + s(tile.columns / 4) + ";");
  text.line("float sums[" + s(tile.rows / 32) + "][" + s(tile.columns / 32) + "][4] = {};");
}

std::pair<std::string, std::string> sum_range(Text& text, const Product& p, const Tile& tile) {
  const std::string length = text.number(p.k, false);
  if (tile.splits == 1) return {"0", length};
  const std::string chunk = text.number(tile.chunk, false);
  text.line("const int sum_from = blockIdx.y * " + chunk + ", sum_end = min(sum_from + " + chunk +
            ", " + length + ");");
  return {"sum_from", "sum_end"};
}

// What follows the dot, for a thread's sums.
void finish_product(const Work& work, const Nest& nest, const Product& p, const Tile& tile,
                    Text& text) {
  const bool cores = p.unit != Unit::fmaf;
  Body body(nest, text);
  body.memory_aligned = work.device.aligned;
  choose_lanes(body, p.b.own.back());
  const bool splits = tile.splits > 1;
  if (splits) body.lanes = p.n % 4 == 0 ? 4 : 1;
  body.lanes = std::min(body.lanes, cores ? 2 : 4);
  const int lanes = body.lanes;
  int high = tile.each, wide = tile.each;
  std::string row = "i / 4 * 64 + thread_row + i % 4",
              column = "j / 4 * 64 + thread_column + j % 4";
  std::string sum = "sums[i][j";
  if (cores) {
    high = tile.rows / 16;
    wide = tile.columns / 16;
    row = "warp_row + i * 8 + lane / 4";
    column = "warp_column + j / 2 * 8 + lane % 4 * 2 + j % 2";
    sum = "sums[i / 2][j / 2][i % 2 * 2 + j % 2";
  }
  if (!splits) body.decompose("batch", p.batch_order);
  text.line("#pragma unroll");
  body.enter("for (int i = 0; i < " + s(high) + "; ++i)");
  text.line("const int m = first_row + " + row + ";");
  text.line("if (m >= " + text.number(p.m, false) + ") continue;");
  if (!splits) body.decompose("m", p.a.own);
  text.line("#pragma unroll");
  body.enter("for (int j = 0; j < " + s(wide) + "; j += " + s(lanes) + ")");
  text.line("const int n = first_column + " + column + ";");
  text.line("if (n >= " + text.number(p.n, false) + ") continue;");
  if (lanes > 1 && !splits) text.line("const int run = n / " + s(lanes) + ";");
  if (!splits) body.decompose(lanes > 1 ? "run" : "n", p.b.own, lanes);
  for (int lane = 0; lane < lanes; ++lane) {
    text.line("const float sum" + (lanes > 1 ? "_" + s(lane) : "") + " = " + sum +
              (lane > 0 ? " + " + s(lane) : "") + "];");
  }
  if (splits) {
    keep_partial(p, tile, text, lanes);
  } else {
    body.give(p.dot, "sum", lanes > 1);
    for (int line : nest.stores) body.store(line);
  }
  body.leave();
  body.leave();
}

}  // namespace onnx_fusion::cuda
