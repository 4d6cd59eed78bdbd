#include "cpu/attention_operand.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/attention_kernels.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kFewRows = 64;  // for which columns that lie well are not worth packing
constexpr int64_t kCrowding = 4;  // lines in a set up to which they lie well; twice that if wide
constexpr int64_t kDotRows = 4;   // for which columns along k are not
constexpr int64_t kLongSum = 256;  // of which sums are cut, for exactness and the first-level cache
constexpr int64_t kMovedRows = 64;  // whose sums go on at once
constexpr int64_t kDotColumns = 32;  // that all rows meet while they are in the first-level cache

// Tiles of nearly equal height: one of few rows takes as much time as a full one. The first `large`
// of them have one row more than the others.
struct RowTiles {
  int64_t count, rows, large;
  RowTiles(int64_t all, int64_t most)
      : count((all + most - 1) / most), rows(all / count), large(all % count) {}
};

const Instruction& line_of(const BoundStage& stage, int value) {
  return stage.stage->body[static_cast<size_t>(stage.stage->values[static_cast<size_t>(value)])];
}

// The source of a body line, if it is a load (or store) of f32 through a linear map that stays
// inside.
bool find_source(const BoundStage& stage, int line, const Axis& a, const Axis& b,
                 OperandSource* source) {
  const Instruction& load = stage.stage->body[static_cast<size_t>(line)];
  if ((load.op != Op::op_load && load.op != Op::op_store) || load.dtype != DType::f32) return false;
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
    const auto panel = [&](int64_t w) {
      return std::max(static_cast<double>(w) * 0.5, 4.5 / rows);
    };
    const int64_t rest = all % v;
    const double time = static_cast<double>(all / v) * panel(v) + (rest > 0 ? panel(rest) : 0.0);
    if (v > 1 && time > least * 1.001) continue;
    best = v;
    least = time;
  }
  return best;
}

}  // namespace

float* OperandSource::memory(const RunContext& context, const int64_t* positions) const {
  int64_t at = map->address.base;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (fixed >> l & 1) at += map->address.coef[l] * positions[l];
  }
  return reinterpret_cast<float*>(context.tensors[tensor]) + at;
}

ColumnOperand::ColumnOperand(const BoundProgram& bound, size_t stage, int value,
                             const Axis& column_axis, const Axis& k, int64_t rows) {
  const BoundStage& s = bound.stages[stage];
  const GemmKernels& kernels = gemm_kernels();
  columns = axis_extent(s, column_axis);
  depth = axis_extent(s, k);
  lanes_ = kernels.lanes;
  vectors_ = choose_vectors(kernels, columns);
  width = vectors_ * lanes_;
  panels_ = (columns + width - 1) / width;
  tile_rows_ = kernels.rows[vectors_];
  const int line = s.stage->values[static_cast<size_t>(value)];
  if (!find_source(s, line, column_axis, k, &source_) ||
      !build_tables(s, *source_.map, 0, Axis{}, column_axis, k, &tables_)) {
    source_.map = nullptr;
    prologue_ = std::make_unique<Prologue>(bound, stage, value, k, column_axis);
    return;
  }
  column_tables_ = build_columns(tables_.outer, kernels.lanes, panels_ * width);
  const RunTables runs = build_runs(tables_);
  if (runs.runs.size() == 1) step_ = runs.step;
  way_ = choose_way(rows);
}

ColumnOperand::Way ColumnOperand::choose_way(int64_t rows) const {
  if (step_ == 0) return Way::packed;
  bool consecutive = true;
  for (size_t c = 0; c < tables_.outer.size() && consecutive; ++c) {
    consecutive = tables_.outer[c] == static_cast<int64_t>(c);
  }
  if (consecutive) {
    const bool few = rows <= kFewRows || crowding() <= (lanes_ > 8 ? 2 : 1) * kCrowding;
    return rows == 1 ? Way::mix : few ? Way::in_place : Way::packed;
  }
  return step_ == 1 && rows <= kDotRows ? Way::dots : Way::packed;
}

// How many lines of a panel read in place share a set of a first-level cache of 64 sets; all of
// them if vectors would lie across lines.
int64_t ColumnOperand::crowding() const {
  constexpr int64_t kLine = 16, kSets = 64;
  if (step_ % kLine != 0) return depth;
  int64_t apart = step_ / kLine, sets = kSets;
  while (apart % 2 == 0 && sets > 1) {
    apart /= 2;
    sets /= 2;
  }
  return (depth + sets - 1) / sets;
}

int ColumnOperand::panel_vectors(int64_t panel) const {
  return static_cast<int>(
      std::min<int64_t>(vectors_, (columns - panel * width + lanes_ - 1) / lanes_));
}

int64_t ColumnOperand::first_packed() const {
  if (way_ == Way::packed) return 0;
  return way_ == Way::in_place && columns % lanes_ != 0 ? panels_ - 1 : panels_;
}

int64_t ColumnOperand::floats() const { return (panels_ - first_packed()) * width * depth; }

ColumnView ColumnOperand::prepare(const RunContext& context, const int64_t* fixed, float* buffer,
                                  char* scratch) const {
  ColumnView view{nullptr, buffer};
  if (prologue_ == nullptr) {
    view.memory = source_.memory(context, fixed);
    const int64_t first = first_packed();
    if (first == panels_) return view;
    const ColumnPack pack{view.memory,
                          tables_.outer.data(),
                          tables_.inner.data(),
                          column_tables_.vectors.data(),
                          column_tables_.segments.data(),
                          nullptr,
                          0,
                          0,
                          step_ == 1 && tables_.outer.size() > 1 && tables_.outer[1] != 1};
    gemm_kernels().pack_columns(pack, first * width, (panels_ - first) * vectors_, vectors_, 0,
                                depth, buffer);
    return view;
  }
  for (int64_t panel = 0; panel < panels_; ++panel, buffer += width * depth) {
    const int64_t end = std::min(columns, (panel + 1) * width);
    if (end < (panel + 1) * width) {
      std::memset(buffer, 0, static_cast<size_t>(width * depth) * sizeof(float));
    }
    prologue_->run(context, fixed, 0, depth, panel * width, end, buffer, width, 1, scratch);
  }
  return view;
}

void ColumnOperand::multiply(const ColumnView& view, const float* const* rows, int64_t count,
                             int64_t k0, int64_t k1, int64_t c0, int64_t c1, float* out, int64_t ld,
                             bool add) const {
  const TileKernels& kernels = tile_kernels();
  const int64_t k = k1 - k0;
  if (way_ == Way::mix) {
    const float* const b = view.memory + k0 * step_ + c0;
    for (int64_t r = 0; r < count; ++r) {
      attention_kernels().mix(k, rows[r], b, step_, c1 - c0, out + r * ld, add);
    }
    return;
  }
  if (way_ == Way::dots) {
    for (int64_t c = c0; c < c1; c += kDotColumns) {
      const int64_t some = std::min(kDotColumns, c1 - c);
      for (int64_t r = 0; r < count; ++r) {
        attention_kernels().dots(k, rows[r], view.memory + k0, tables_.outer.data() + c, some,
                                 out + r * ld + c - c0, add);
      }
    }
    return;
  }
  const RowTiles tiles(count, tile_rows_);
  const int64_t apart = rows_apart(rows, count);
  const int64_t parts = (k + kLongSum - 1) / kLongSum;
  const int64_t first = first_packed();
  for (int64_t panel = c0 / width; panel * width < c1; ++panel) {
    const bool packed = panel >= first;
    const float* const b =
        packed ? view.packed + (panel - first) * depth * width : view.memory + panel * width;
    const int64_t step = packed ? width : step_;
    const int vectors = panel_vectors(panel);
    const TileRows kind = step == vectors * lanes_ ? TileRows::direct : TileRows::strided;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t at = k * part / parts, length = k * (part + 1) / parts - at;
      TileCall call{1,       &length, nullptr,         nullptr, 1, step, b + (k0 + at) * step,
                    nullptr, ld,      add || part > 0, nullptr};
      call.c = out + panel * width - c0;
      call.apart = apart;
      for (int64_t row = 0; row < count;) {
        const bool large = row < tiles.large * (tiles.rows + 1);
        const int64_t height = tiles.rows + (large ? 1 : 0);
        const int64_t left = large ? tiles.large - row / height : (count - row) / height;
        call.tiles = at > 0 ? std::min(left, kMovedRows / height) : left;
        const int64_t taken = call.tiles * height;
        const float* moved[kMovedRows];
        for (int64_t r = 0; r < taken && at > 0; ++r) moved[r] = rows[row + r] + at;
        call.a = at > 0 ? moved : rows + row;
        kernels.tile(kind, static_cast<int>(height), vectors, call);
        call.c += taken * ld;
        row += taken;
      }
    }
  }
}

float ColumnOperand::magnitude(const ColumnView& view) const {
  const auto of = attention_kernels().magnitude;
  float most = of(view.packed, floats());
  const int64_t in_place = std::min(columns, first_packed() * width);
  if (way_ == Way::dots) {
    for (int64_t at : tables_.outer) most = std::max(most, of(view.memory + at, depth));
  } else if (in_place > 0) {
    for (int64_t k = 0; k < depth; ++k) {
      most = std::max(most, of(view.memory + k * step_, in_place));
    }
  }
  return most;
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

bool PlaneRows::make(const BoundProgram& bound, size_t stage, int line, const Axis& rows,
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

bool PlaneRows::make_store(const BoundProgram& bound, size_t stage, const Axis& rows,
                           const Axis& columns) {
  const Stage& body = *bound.stages[stage].stage;
  int store = -1;
  for (size_t i = 0; i < body.body.size(); ++i) {
    if (body.body[i].op != Op::op_store) continue;
    if (store >= 0) return false;
    store = static_cast<int>(i);
  }
  const int value = body.body[static_cast<size_t>(store)].args[0];
  return body.values[static_cast<size_t>(value)] == find_dot(body) &&
         make(bound, stage, store, rows, columns);
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
      const int side = constant(line.args[1], &number)   ? 0
                       : constant(line.args[0], &number) ? 1
                                                         : -1;
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
      PlaneRows plane;
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
