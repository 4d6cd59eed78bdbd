#include "cpu/attention_operand.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace onnx_fusion::cpu {
namespace {

const Instruction& line_of(const BoundStage& stage, int value) {
  return stage.stage->body[static_cast<size_t>(stage.stage->values[static_cast<size_t>(value)])];
}

// The source of a body line, if it is nothing but a load of f32 through a linear map that stays inside.
bool find_source(const BoundStage& stage, int line, const Axis& a, const Axis& b,
                 OperandSource* source) {
  const Instruction& load = stage.stage->body[static_cast<size_t>(line)];
  if (load.op != Op::op_load || load.dtype != DType::f32) return false;
  const BoundMap& map = stage.maps[static_cast<size_t>(line)];
  if (!map.linear || map.guarded || map.indirect) return false;
  source->map = &map;
  source->tensor = load.tensor;
  LetterSet in_axes = 0;
  for (const Axis* axis : {&a, &b}) {
    for (int k = 0; k < axis->count; ++k) in_axes |= static_cast<LetterSet>(1u << axis->letters[k]);
  }
  source->fixed = static_cast<LetterSet>(load.letters & ~in_axes);
  return true;
}

// Vectors of a panel with which a row of tiles takes least time.
int choose_vectors(const GemmKernels& kernels, int64_t columns) {
  const int64_t all = (columns + kernels.lanes - 1) / kernels.lanes;
  int best = 1;
  double least = 0;
  for (int v = 1; v <= kernels.max_vectors; ++v) {
    const double rows = kernels.rows[v];
    const auto panel = [&](int64_t w) { return std::max(static_cast<double>(w) * 0.5, 4.5 / rows); };
    const int64_t rest = all % v;
    const double time = static_cast<double>(all / v) * panel(v) + (rest > 0 ? panel(rest) : 0.0);
    if (v > 1 && time > least * 1.001) continue;
    best = v;
    least = time;
  }
  return best;
}

}  // namespace

const float* OperandSource::memory(const RunContext& context, const int64_t* positions) const {
  int64_t at = map->address.base;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (fixed >> l & 1) at += map->address.coef[l] * positions[l];
  }
  return reinterpret_cast<const float*>(context.tensors[tensor]) + at;
}

ColumnOperand::ColumnOperand(const BoundProgram& bound, size_t stage, int value,
                             const Axis& column_axis, const Axis& k) {
  const BoundStage& s = bound.stages[stage];
  const GemmKernels& kernels = gemm_kernels();
  columns = axis_extent(s, column_axis);
  depth = axis_extent(s, k);
  vectors = choose_vectors(kernels, columns);
  width = static_cast<int64_t>(vectors) * kernels.lanes;
  panels = (columns + width - 1) / width;
  tile_rows = kernels.rows[vectors];
  const int line = s.stage->values[static_cast<size_t>(value)];
  if (!find_source(s, line, column_axis, k, &source_) ||
      !build_tables(s, *source_.map, 0, Axis{}, column_axis, k, &tables_)) {
    source_.map = nullptr;
    prologue_ = std::make_unique<Prologue>(bound, stage, value, k, column_axis);
    return;
  }
  column_tables_ = build_columns(tables_.outer, kernels.lanes, panels * width);
  const RunTables runs = build_runs(tables_);
  const bool whole = std::all_of(
      column_tables_.vectors.begin(), column_tables_.vectors.end(),
      [](const ColumnVector& v) { return v.kind == kOneRun || v.lanes == 0; });
  along_k_ = !whole && runs.runs.size() <= 1 && runs.step == 1 && depth >= kernels.lanes;
}

int ColumnOperand::panel_vectors(int64_t panel) const {
  const int64_t lanes = width / vectors;
  return static_cast<int>(
      std::min<int64_t>(vectors, (columns - panel * width + lanes - 1) / lanes));
}

void ColumnOperand::pack(const RunContext& context, const int64_t* fixed, float* out,
                         char* scratch) const {
  if (prologue_ == nullptr) {
    const ColumnPack pack{source_.memory(context, fixed),
                          tables_.outer.data(),
                          tables_.inner.data(),
                          column_tables_.vectors.data(),
                          column_tables_.segments.data(),
                          nullptr,
                          0,
                          0,
                          along_k_};
    gemm_kernels().pack_columns(pack, 0, panels * vectors, vectors, 0, depth, out);
    return;
  }
  for (int64_t panel = 0; panel < panels; ++panel, out += width * depth) {
    const int64_t end = std::min(columns, (panel + 1) * width);
    if (end < (panel + 1) * width) {
      std::memset(out, 0, static_cast<size_t>(width * depth) * sizeof(float));
    }
    prologue_->run(context, fixed, 0, depth, panel * width, end, out, width, 1, scratch);
  }
}

RowOperand::RowOperand(const BoundProgram& bound, size_t stage, int value, const Axis& rows,
                       const Axis& k)
    : depth_(axis_extent(bound.stages[stage], k)) {
  const BoundStage& s = bound.stages[stage];
  const int line = s.stage->values[static_cast<size_t>(value)];
  if (find_source(s, line, rows, k, &source_) &&
      build_tables(s, *source_.map, 0, Axis{}, rows, k, &tables_)) {
    const RunTables runs = build_runs(tables_);
    if (runs.runs.size() == 1 && (runs.step == 1 || depth_ == 1)) return;
  }
  prologue_ = std::make_unique<Prologue>(bound, stage, value, rows, k);
}

void RowOperand::fill(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                      float* out, char* scratch) const {
  prologue_->run(context, fixed, r0, r1, 0, depth_, out, depth_, 1, scratch);
}

bool ScorePlane::make(const BoundProgram& bound, size_t stage, int line, const Axis& rows,
                      const Axis& columns) {
  const BoundStage& s = bound.stages[stage];
  if (!find_source(s, line, rows, columns, &source_) ||
      !build_tables(s, *source_.map, 0, Axis{}, columns, rows, &tables_)) {
    return false;
  }
  for (size_t c = 0; c < tables_.outer.size(); ++c) {
    if (tables_.outer[c] != static_cast<int64_t>(c)) return false;
  }
  return true;
}

bool ScoreFinish::make(const BoundProgram& bound, const AttentionMatch& match) {
  const BoundStage& stage = bound.stages[match.scores.stage];
  const Stage& body = *stage.stage;
  const auto constant = [&](int value, float* out) {
    const Instruction& line = line_of(stage, value);
    if (line.op != Op::op_const || line.dtype != DType::f32) return false;
    const uint32_t bits = static_cast<uint32_t>(line.literal);
    std::memcpy(out, &bits, sizeof bits);
    return true;
  };
  bool scaled = false;
  for (int at = match.score; at != match.dot;) {
    const Instruction& line = body.body[static_cast<size_t>(at)];
    if (line.arg_count != 2 || line.dtype != DType::f32) return false;
    const auto source = [&](int arg) { return body.values[static_cast<size_t>(line.args[arg])]; };
    float number = 0;
    if (line.op == Op::op_mul) {
      const int side = constant(line.args[1], &number) ? 0 : constant(line.args[0], &number) ? 1 : -1;
      if (side < 0 || scaled) return false;
      scale = number;
      scaled = true;
      at = source(side);
    } else if (line.op == Op::op_div) {
      int exponent;
      if (scaled || !constant(line.args[1], &number) ||
          std::fabs(std::frexp(number, &exponent)) != 0.5f) {
        return false;
      }
      scale = 1.0f / number;
      scaled = true;
      at = source(0);
    } else if (line.op == Op::op_add) {
      if (scaled || planes.size() == 2) return false;
      const int side = body.body[static_cast<size_t>(source(1))].op == Op::op_load ? 0 : 1;
      ScorePlane plane;
      if (!plane.make(bound, match.scores.stage, source(1 - side), match.scores.rows,
                      match.scores.keys)) {
        return false;
      }
      planes.insert(planes.begin(), std::move(plane));
      at = source(side);
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace onnx_fusion::cpu
