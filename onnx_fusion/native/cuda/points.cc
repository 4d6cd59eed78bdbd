// One thread per point, or per run of neighbouring points, of what is stored.
#include <algorithm>

#include "cuda/body.h"
#include "cuda/work.h"

namespace onnx_fusion::cuda {

Status plan_points(Work& work, size_t stage, const Nest& nest) {
  const Access& first = nest.access[static_cast<size_t>(nest.stores[0])];
  const LetterSet set = nest.letters[static_cast<size_t>(nest.stores[0])];
  const std::vector<int> order = nest.order(set, first);
  Text text(work.bound, nest.wide() || work.device.wide);
  Body body(nest, text);
  body.memory_aligned = work.device.aligned;
  const int lanes = order.empty() ? 1 : choose_lanes(body, order.back());
  const int64_t points = nest.points(set) / lanes;
  const std::string type = text.index();
  text.line("const " + type + " i = blockIdx.x * (" + type + ")blockDim.x + threadIdx.x;");
  text.line("if (i >= " + text.number(points, false) + ") return;");
  body.decompose("i", order, lanes);
  for (int line : nest.stores) body.store(line);
  Shape shape;
  shape.block[0] = kThreads;
  shape.grid[0] = (points + kThreads - 1) / kThreads;
  return work.add(stage, "points", text, shape);
}

Status plan_rest(Work& work, size_t stage, const Nest& nest, int dot, const std::vector<int>& order,
                 int sums) {
  Text text(work.bound, nest.wide());
  Body body(nest, text);
  body.memory_aligned = work.device.aligned;
  const int lanes = body.lanes = std::min(order.empty() ? 1 : choose_lanes(body, order.back()), 4);
  const int64_t runs = nest.points(nest.letters[static_cast<size_t>(dot)]) / lanes;
  const std::string type = text.index(), count = std::to_string(lanes);
  const std::string from = text.scratch(sums, DType::f32, false);
  text.line("const " + type + " i = blockIdx.x * (" + type + ")blockDim.x + threadIdx.x;");
  text.line("if (i >= " + text.number(runs, false) + ") return;");
  body.decompose("i", order, lanes);
  text.line("const Pack<float, " + count + "> sums = *(const Pack<float, " + count + ">*)(" + from +
            " + i * " + count + ");");
  for (int lane = 0; lane < lanes; ++lane) {
    text.line("const float sum" + (lanes > 1 ? "_" + std::to_string(lane) : "") + " = sums.at[" +
              std::to_string(lane) + "];");
  }
  body.give(dot, "sum", lanes > 1);
  for (int line : nest.stores) body.store(line);
  Shape shape;
  shape.block[0] = kThreads;
  shape.grid[0] = (runs + kThreads - 1) / kThreads;
  return work.add(stage, "library_rest", text, shape);
}

}  // namespace onnx_fusion::cuda
