// The launch behind one that leaves a product's sums, or parts of them, in a buffer: adds them up,
// and does what follows the dot.
#include <algorithm>

#include "cuda/contract.h"

namespace onnx_fusion::cuda {
namespace {

std::string s(int64_t value) { return std::to_string(value); }

}  // namespace

Status add_parts(Work& work, size_t stage, const Nest& nest, const Product& p, const Parts& parts) {
  Text text(work.bound, false);
  Body body(nest, text);
  body.memory_aligned = work.device.aligned;
  choose_lanes(body, p.b.own.back());
  body.lanes = std::min(body.lanes, 4);
  const int lanes = body.lanes;
  const int64_t rows = parts.rows > 0 ? parts.rows : p.m, all = p.batches * rows * p.n;
  const std::string runs = s(lanes), from = text.scratch(parts.buffer, DType::f32, false);
  text.line("const int i = blockIdx.x * (int)blockDim.x + threadIdx.x;");
  text.line("if (i >= " + text.number(all / lanes, false) + ") return;");
  text.line("const int row = " + text.quotient("i", p.n / lanes, false) + ";");
  text.line("const int run = i - row * " + text.number(p.n / lanes, false) + ";");
  if (rows == p.m) {
    text.line("const int batch = " + text.quotient("row", p.m, false) + ";");
    text.line("const int m = row - batch * " + text.number(p.m, false) + ";");
  } else {
    text.line("const int batch = 0, m = row + " + text.number(parts.first_row, false) + ";");
  }
  body.decompose("batch", p.batch_order);
  body.decompose("m", p.a.own);
  body.decompose("run", p.b.own, lanes);
  std::string zeros = "float sum" + std::string(lanes > 1 ? "_0" : "") + " = 0.0f";
  for (int lane = 1; lane < lanes; ++lane) zeros += ", sum_" + s(lane) + " = 0.0f";
  text.line(zeros + ";");
  if (parts.count > 1) text.line("#pragma unroll 4");
  text.open("for (int split = 0; split < " + text.number(parts.count, false) + "; ++split)");
  const std::string place = from + " + split * " + text.number(all, false) + " + i * " + runs;
  if (lanes == 1) {
    text.line("sum += *(" + place + ");");
  } else {
    text.line("const Pack<float, " + runs + "> part = *(const Pack<float, " + runs + ">*)(" +
              place + ");");
    for (int lane = 0; lane < lanes; ++lane) {
      text.line("sum_" + s(lane) + " += part.at[" + s(lane) + "];");
    }
  }
  text.close();
  body.give(p.dot, "sum", lanes > 1);
  for (int line : nest.stores) body.store(line);
  Shape shape;
  shape.block[0] = kThreads;
  shape.grid[0] = (all / lanes + kThreads - 1) / kThreads;
  return work.add(stage, parts.count > 1 ? "split_sum" : "library_rest", text, shape);
}

}  // namespace onnx_fusion::cuda
