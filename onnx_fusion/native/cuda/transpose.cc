// Points whose loads run along another letter than the stores: both run along memory, by a tile of
// shared memory between them.
#include <algorithm>

#include "cuda/body.h"
#include "cuda/work.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int kTile = 32, kHigh = 8, kPitch = kTile + 1;
constexpr int64_t kWorth = 16;  // positions of both letters
constexpr size_t kMostLoads = 4;

struct Crossing {
  int from = -1, to = -1;  // the letters that loads and stores run along
  std::vector<int> loads;
};

bool find_crossing(const Nest& nest, Crossing* crossing) {
  const size_t store = static_cast<size_t>(nest.stores[0]);
  const std::vector<int> order = nest.order(nest.letters[store], nest.access[store]);
  if (order.size() < 2 || nest.wide()) return false;
  Crossing& c = *crossing;
  c.to = order.back();
  if (nest.access[store].address.coef[c.to] != 1 || nest.extents[c.to] < kWorth) return false;
  for (size_t i = 0; i < nest.lines(); ++i) {
    const int line = static_cast<int>(i);
    const Access& access = nest.access[i];
    if (!nest.is_live(line) || nest.at(line).op != Op::op_load) continue;
    if (!access.computed.empty() || !access.indirect.empty() || access.address.coef[c.to] <= 1) {
      continue;
    }
    for (int l : order) {
      if (l == c.to || access.address.coef[l] != 1 || nest.extents[l] < kWorth) continue;
      if (c.from >= 0 && c.from != l) continue;
      c.from = l;
      if (c.loads.size() < kMostLoads) c.loads.push_back(line);
    }
  }
  return !c.loads.empty();
}

}  // namespace

bool crosses(const Nest& nest) {
  Crossing crossing;
  return find_crossing(nest, &crossing);
}

Status plan_transpose(Work& work, size_t stage, const Nest& nest) {
  Crossing crossing;
  find_crossing(nest, &crossing);
  const size_t store = static_cast<size_t>(nest.stores[0]);
  std::vector<int> rest = nest.order(nest.letters[store], nest.access[store]);
  rest.erase(std::find(rest.begin(), rest.end(), crossing.from));
  rest.pop_back();
  Text text(work.bound, false);
  const int64_t wide = (nest.extents[crossing.to] + kTile - 1) / kTile;
  const int64_t high = (nest.extents[crossing.from] + kTile - 1) / kTile;
  const std::string tile = std::to_string(kTile);
  text.line("const int tile = blockIdx.x;");
  text.line("const int tile_row = " + text.quotient("tile", wide, false) + ";");
  text.line("const int to = (tile - tile_row * " + text.number(wide, false) + ") * " + tile + ";");
  text.line("const int outer = " + text.quotient("tile_row", high, false) + ";");
  text.line("const int from = (tile_row - outer * " + text.number(high, false) + ") * " + tile +
            ";");
  int64_t bytes = 0;
  for (int line : crossing.loads) {
    const std::string type = type_name(nest.dtype(line));
    text.line(type + "* const tile_" + std::to_string(line) + " = (" + type +
              "*)(shared_bytes() + " + std::to_string(bytes) + ");");
    bytes += kTile * kPitch * static_cast<int64_t>(dtype_size(nest.dtype(line)));
    bytes = (bytes + 15) / 16 * 16;
  }
  Body body(nest, text);
  body.memory_aligned = work.device.aligned;
  body.decompose("outer", rest);
  for (const bool loads : {true, false}) {
    const std::string along_from = loads ? "threadIdx.x" : "turn + threadIdx.y";
    const std::string along_to = loads ? "turn + threadIdx.y" : "threadIdx.x";
    text.line("#pragma unroll");
    body.enter("for (int turn = 0; turn < " + tile + "; turn += " + std::to_string(kHigh) + ")");
    const std::string i = body.letter[crossing.from] = "a" + std::to_string(crossing.from);
    const std::string j = body.letter[crossing.to] = "a" + std::to_string(crossing.to);
    text.line("const int " + i + " = from + " + along_from + ";");
    text.line("const int " + j + " = to + " + along_to + ";");
    body.enter("if (" + i + " < " + text.number(nest.extents[crossing.from], false) + " && " + j +
               " < " + text.number(nest.extents[crossing.to], false) + ")");
    for (int line : crossing.loads) {
      const std::string place = "tile_" + std::to_string(line) + "[(" + along_to + ") * " +
                                std::to_string(kPitch) + " + " + along_from + "]";
      if (loads) {
        body.need(line);
        text.line(place + " = " + body.name(line) + ";");
      } else {
        const std::string name = "v" + std::to_string(line);
        text.line(std::string("const ") + type_name(nest.dtype(line)) + " " + name + " = " + place +
                  ";");
        body.give(line, name);
      }
    }
    if (!loads) {
      for (int line : nest.stores) body.store(line);
    }
    body.leave();
    body.leave();
    if (loads) text.line("__syncthreads();");
  }
  Shape shape;
  shape.block[0] = kTile;
  shape.block[1] = kHigh;
  shape.grid[0] = wide * high * nest.points(nest.letters[store]) /
                  (nest.extents[crossing.to] * nest.extents[crossing.from]);
  shape.shared_bytes = bytes;
  return work.add(stage, "transpose", text, shape);
}

}  // namespace onnx_fusion::cuda
