#include "cpu/pool_after.h"

#include "cpu/tiles_plan.h"
#include "cpu/window_sides.h"

namespace onnx_fusion::cpu {
namespace {

// The only instruction of that kind in a body of a load, a maximum and its store; -1: none.
int find_line(const Stage& stage, Op op) {
  int found = -1;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].op == op) found = found < 0 ? static_cast<int>(i) : -1;
  }
  return stage.body.size() == 3 ? found : -1;
}

bool is_read_elsewhere(const Program& program, int tensor, size_t reader) {
  for (size_t s = 0; s < program.stages.size(); ++s) {
    if (s == reader) continue;
    for (const Instruction& line : program.stages[s].body) {
      if (line.op == Op::op_load && line.tensor == tensor) return true;
    }
  }
  return false;
}

}  // namespace

bool find_pool_after(const BoundProgram& bound, size_t stage, int image, int filter, int down,
                     int along, PoolAfter* pool) {
  const Program& program = *bound.program;
  if (stage + 1 >= bound.stages.size() || bound.stages[stage + 1].empty) return false;
  const BoundStage &from = bound.stages[stage], &to = bound.stages[stage + 1];
  const std::vector<int> stores = stores_of(from);
  if (stores.size() != 1) return false;
  const size_t stored = static_cast<size_t>(stores[0]);
  const int tensor = from.stage->body[stored].tensor;
  const size_t first = program.inputs, last = first + program.temps;
  if (static_cast<size_t>(tensor) < first || static_cast<size_t>(tensor) >= last) return false;
  const int load = find_line(*to.stage, Op::op_load), store = find_line(*to.stage, Op::op_store);
  const int join = find_line(*to.stage, Op::op_reduce_max);
  if (load < 0 || store < 0 || join < 0) return false;
  if (is_read_elsewhere(program, tensor, stage + 1)) return false;
  const Instruction& reduction = to.stage->body[static_cast<size_t>(join)];
  const Instruction& read = to.stage->body[static_cast<size_t>(load)];
  const Instruction& written = to.stage->body[static_cast<size_t>(store)];
  const auto line_of = [&](int value) { return to.stage->values[static_cast<size_t>(value)]; };
  if (read.tensor != tensor || read.dtype != DType::f32 || line_of(reduction.args[0]) != load ||
      line_of(written.args[0]) != join) {
    return false;
  }
  const BoundMap& map = to.maps[static_cast<size_t>(load)];
  const Linear &at = from.maps[stored].address, &out = to.maps[static_cast<size_t>(store)].address;
  if (!map.linear || map.indirect || map.guarded || map.address.base != at.base) return false;
  WindowSide sides[kMostSides];
  if (find_sides(to, map, reduction.over, sides) != 2) return false;
  for (const WindowSide* side : {&sides[0], &sides[1]}) {
    const bool pairs = side->taps == 2 && side->step == 2 && side->reach == 1;
    const int letter = side == sides ? down : along;
    if (!pairs || side->letter < 0 || side->stride != at.coef[letter]) return false;
  }
  int images = -1, filters = -1;
  for (size_t l = 0; l < to.stage->letters.size(); ++l) {
    const int letter = static_cast<int>(l);
    if (to.extents[l] == 1 || (reduction.over >> l & 1) != 0) continue;
    if (letter == sides[0].letter || letter == sides[1].letter) continue;
    const auto is = [&](int other) {
      return other >= 0 && map.address.coef[l] == at.coef[other] &&
             to.extents[l] == from.extents[other];
    };
    int& found = is(filter) ? filters : images;
    if (found >= 0 || !(is(filter) || is(image))) return false;
    found = letter;
  }
  if (filters < 0 || (image >= 0) != (images >= 0)) return false;
  pool->rows = sides[0].outputs;
  pool->columns = sides[1].outputs;
  pool->tensor = written.tensor;
  pool->base = out.base;
  pool->image_step = images < 0 ? 0 : out.coef[images];
  pool->filter_step = out.coef[filters];
  pool->row_step = out.coef[sides[0].letter];
  pool->column_step = out.coef[sides[1].letter];
  return true;
}

}  // namespace onnx_fusion::cpu
