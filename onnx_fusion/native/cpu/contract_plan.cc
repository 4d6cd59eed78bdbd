#include "cpu/contract_plan.h"

#include <algorithm>
#include <cstring>

#include "cpu/contract.h"

namespace onnx_fusion {
namespace {

const Instruction& defining(const Stage& stage, int value) { return stage.body[stage.values[value]]; }

int find_dot(const Stage& stage) {
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].op == Op::op_dot) return static_cast<int>(i);
  }
  return -1;
}

}  // namespace

std::string contract_refusal(const Program& program, size_t stage) {
  const Stage& s = program.stages[stage];
  const int dot = find_dot(s);
  if (dot < 0) return "a contraction needs a dot";
  for (const Instruction& line : s.body) {
    if (line.op == Op::op_store && (line.letters & s.body[dot].over) != 0) {
      return "line " + std::to_string(line.line) + ": an operand of the dot is stored too";
    }
  }
  return "";
}

std::unique_ptr<StagePlan> plan_contraction(const BoundProgram& bound, size_t stage,
                                            const TensorView* constants, size_t count) {
  return std::make_unique<cpu::ContractPlan>(bound, stage, constants, count);
}

namespace cpu {
namespace {

constexpr int64_t kDepthBlock = 256;        // k between two passes over the accumulators
constexpr int64_t kPackedFloats = 1 << 18;  // of one operand packed at once: half a second-level cache
constexpr int64_t kSumFloats = 48 << 10;    // accumulators held over blocks of k
constexpr int64_t kStripFloats = 2048;      // through the epilogue at once

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

Axis axis_of(const BoundStage& stage, LetterSet letters) {
  Axis axis;
  for (size_t l = 0; l < stage.stage->letters.size(); ++l) {
    if ((letters >> l & 1) != 0 && stage.extents[l] != 1) {
      axis.letters[axis.count++] = static_cast<uint8_t>(l);
    }
  }
  return axis;
}

int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }

// The letter with the largest step in memory comes first.
void sort_axis(Axis* axis, const Linear& address) {
  std::stable_sort(axis->letters, axis->letters + axis->count, [&](uint8_t a, uint8_t b) {
    return magnitude(address.coef[a]) > magnitude(address.coef[b]);
  });
}

// The smallest step in memory between neighbours along an axis, 0 if it has none; *letter takes it.
int64_t least_step(const BoundStage& stage, const Axis& axis, const Linear& address, int* letter) {
  int64_t least = 0;
  for (int i = 0; i < axis.count; ++i) {
    const int64_t coef = magnitude(address.coef[axis.letters[i]]);
    if (coef == 0 || stage.extents[axis.letters[i]] == 1 || (least != 0 && coef >= least)) continue;
    least = coef;
    *letter = axis.letters[i];
  }
  return least;
}

// An operand as far as the choice of its side needs it.
struct Candidate {
  int value;
  Axis axis;
  int64_t extent;
  const BoundMap* map;  // null if it is not a plain load of linear indices
  bool constant;
};

bool is_guarded_by(const BoundMap& map, int letter) {
  return std::any_of(map.dims.begin(), map.dims.end(), [&](const BoundIndex& dim) {
    return dim.guarded && dim.form.coef[letter] != 0;
  });
}

// Cycles to bring an element into a panel of columns, and into a tile of rows: measured, roughly.
double column_cost(const BoundStage& stage, const Candidate& x, const Axis& k) {
  if (x.constant) return 0;
  if (x.map == nullptr) return 1.5;
  int letter = 0;
  const int64_t step = least_step(stage, x.axis, x.map->address, &letter);
  if (step == 1) return 0.1;
  if (step == 2) return 0.3;
  return least_step(stage, k, x.map->address, &letter) == 1 && k.count == 1 && !x.map->guarded ? 0.25
                                                                                           : 1.0;
}

double row_cost(const BoundStage& stage, const Candidate& x, const Axis& k) {
  if (x.constant) return 0;
  if (x.map == nullptr) return 1.5;
  int letter = 0;
  if (least_step(stage, k, x.map->address, &letter) != 1) return 1.0;
  return stage.extents[letter] < 8 || is_guarded_by(*x.map, letter) ? 1.0 : 0.02;
}

float as_float(uint64_t literal) {
  const uint32_t bits = static_cast<uint32_t>(literal);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

ContractPlan::ContractPlan(const BoundProgram& bound, size_t stage, const TensorView* constants,
                           size_t count)
    : kernels_(gemm_kernels()), stage_(bound.stages[stage]), stage_index_(stage) {
  if (stage_.empty) return;
  choose_axes(constants, count);
  choose_sources(bound, constants, count);
  choose_blocks();
  epilogue_ = transposed_ ? std::make_unique<Epilogue>(bound, stage, column_, row_)
                          : std::make_unique<Epilogue>(bound, stage, row_, column_);
}

void ContractPlan::choose_axes(const TensorView* constants, size_t count) {
  const Stage& stage = *stage_.stage;
  const Instruction& dot = stage.body[find_dot(stage)];
  LetterSet sides[2], stored = 0;
  for (int i = 0; i < 2; ++i) sides[i] = defining(stage, dot.args[i]).letters & ~dot.over;
  const Linear* store = nullptr;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].op != Op::op_store) continue;
    if (store == nullptr) store = &stage_.maps[i].address;
    stored |= stage.body[i].letters;
  }
  const LetterSet both = sides[0] & sides[1], any = sides[0] | sides[1];
  batch_ = axis_of(stage_, static_cast<LetterSet>(both | (stored & ~any)));
  k_ = axis_of(stage_, dot.over);
  batches_ = axis_extent(stage_, batch_);
  depth_ = axis_extent(stage_, k_);

  Candidate operands[2];
  for (int i = 0; i < 2; ++i) {
    Candidate& x = operands[i];
    x.value = dot.args[i];
    x.axis = axis_of(stage_, static_cast<LetterSet>(sides[i] & ~both));
    x.extent = axis_extent(stage_, x.axis);
    const int line = stage.values[x.value];
    const Instruction& load = stage.body[line];
    const bool plain = load.op == Op::op_load && load.dtype == DType::f32 &&
                       stage_.maps[line].linear && !stage_.maps[line].indirect;
    x.map = plain ? &stage_.maps[line] : nullptr;
    x.constant = plain && static_cast<size_t>(load.tensor) < count &&
                 constants[load.tensor].data != nullptr;
  }
  const int lanes = kernels_.lanes;
  double least = 0;
  int best = -1;
  for (int i = 1; i >= 0; --i) {
    const Candidate &columns = operands[i], &rows = operands[1 - i];
    const double m = static_cast<double>(rows.extent), n = static_cast<double>(columns.extent);
    const double k = static_cast<double>(std::max<int64_t>(depth_, 1));
    int letter = 0;
    const bool transposed = m > 1 && least_step(stage_, columns.axis, *store, &letter) != 1 &&
                            least_step(stage_, rows.axis, *store, &letter) == 1;
    const double cost = m * k * static_cast<double>(round_up(columns.extent, lanes) / lanes) +
                        n * k * column_cost(stage_, columns, k_) +
                        m * k * row_cost(stage_, rows, k_) + (transposed ? 0.2 * m * n : 0.0);
    if (best >= 0 && cost >= least) continue;
    best = i;
    least = cost;
    transposed_ = transposed;
  }
  row_ = operands[1 - best].axis;
  column_ = operands[best].axis;
  row_value_ = operands[1 - best].value;
  column_value_ = operands[best].value;
  rows_ = operands[1 - best].extent;
  columns_ = operands[best].extent;
  sort_axis(&batch_, *store);
  sort_axis(&row_, *store);
  sort_axis(&column_, *store);

  const int64_t vectors = round_up(columns_, lanes) / lanes;
  const int64_t panels = round_up(vectors, kernels_.max_vectors) / kernels_.max_vectors;
  vectors_ = static_cast<int>(round_up(vectors, panels) / panels);
  width_ = static_cast<int64_t>(vectors_) * lanes;
  panels_ = round_up(columns_, width_) / width_;
  tile_rows_ = kernels_.rows[vectors_];
}

void ContractPlan::choose_sources(const BoundProgram& bound, const TensorView* constants,
                                  size_t count) {
  const auto constant = [&](int tensor) -> const TensorView* {
    const bool known = tensor >= 0 && static_cast<size_t>(tensor) < count &&
                       constants[tensor].data != nullptr;
    return known ? &constants[tensor] : nullptr;
  };
  const auto line = [&](int value) -> const Instruction& {
    return defining(*stage_.stage, value);
  };
  Axis row_k = k_;
  rows_side_.prologue =
      std::make_unique<Prologue>(bound, stage_index_, row_value_, row_, row_k);
  const BoundMap* row_map = rows_side_.prologue->load(&rows_side_.tensor);
  columns_side_.prologue =
      std::make_unique<Prologue>(bound, stage_index_, column_value_, k_, column_);
  const BoundMap* column_map = columns_side_.prologue->load(&columns_side_.tensor);

  // k in the order in which the operand that is not constant lies in memory.
  const bool rows_lead = row_map != nullptr && row_map->linear &&
                         constant(rows_side_.tensor) == nullptr;
  const BoundMap* lead = rows_lead ? row_map : column_map;
  if (lead != nullptr && lead->linear) {
    sort_axis(&k_, lead->address);
    rows_side_.prologue = std::make_unique<Prologue>(bound, stage_index_, row_value_, row_, k_);
    row_map = rows_side_.prologue->load(&rows_side_.tensor);
    columns_side_.prologue =
        std::make_unique<Prologue>(bound, stage_index_, column_value_, k_, column_);
    column_map = columns_side_.prologue->load(&columns_side_.tensor);
  }

  if (row_map != nullptr && build_tables(stage_, *row_map, as_float(line(row_value_).literal),
                                         batch_, row_, k_, &rows_side_.tables)) {
    const OperandTables& tables = rows_side_.tables;
    const RunTables runs = build_runs(tables);
    const int64_t pieces = static_cast<int64_t>(runs.runs.size());
    const bool long_runs = pieces <= 1 || depth_ / pieces >= 8;
    const bool in_place = tables.guards.empty() ? runs.step == 1 || panels_ <= 2 : runs.step == 1;
    if (const TensorView* view = constant(rows_side_.tensor)) {
      cache_rows(*view);
    } else if (long_runs && in_place) {
      rows_side_.source = Source::direct;
      row_step_ = runs.step;
      int64_t longest = 0;
      for (const Run& run : runs.runs) {
        pieces_.push_back({run.begin, run.end});
        longest = std::max(longest, run.end - run.begin);
      }
      if (!tables.guards.empty()) padding_.assign(static_cast<size_t>(longest), tables.fill);
    } else {
      rows_side_.source = Source::tables;
    }
  }
  if (pieces_.empty()) pieces_.push_back({0, depth_});

  if (column_map != nullptr &&
      build_tables(stage_, *column_map, as_float(line(column_value_).literal), batch_, column_, k_,
                   &columns_side_.tables)) {
    OperandTables& tables = columns_side_.tables;
    const int64_t padded = panels_ * width_;
    column_tables_ = build_columns(tables.outer, kernels_.lanes, padded);
    const RunTables runs = build_runs(tables);
    const bool whole = std::all_of(
        column_tables_.vectors.begin(), column_tables_.vectors.end(),
        [](const ColumnVector& v) { return v.kind == kOneRun || v.lanes == 0; });
    const bool plain = tables.guards.empty() && runs.runs.size() <= 1;
    along_k_ = plain && !whole && runs.step == 1 && depth_ >= kernels_.lanes;
    for (TableGuard& guard : tables.guards) {
      guard.outer.resize(static_cast<size_t>(padded), 0);
      column_guards_.push_back({guard.outer.data(), guard.inner.data(), guard.extent});
    }
    if (const TensorView* view = constant(columns_side_.tensor)) {
      cache_columns(*view);
    } else if (along_k_ && rows_ == 1 && rows_side_.source == Source::direct && row_step_ == 1 &&
               padding_.empty() && pieces_.size() == 1) {
      columns_side_.source = Source::dots;
    } else if (plain && rows_ <= tile_rows_ && columns_ % width_ == 0 && depth_ > 1 &&
               std::all_of(column_tables_.vectors.begin(), column_tables_.vectors.end(),
                           [&](const ColumnVector& v) {
                             const int64_t at = &v - column_tables_.vectors.data();
                             const int64_t lane = at * kernels_.lanes;
                             return v.kind == kOneRun &&
                                    tables.outer[lane] == tables.outer[lane / width_ * width_] +
                                                              lane % width_;
                           })) {
      columns_side_.source = Source::direct;
      column_step_ = runs.step;
    } else {
      columns_side_.source = Source::tables;
    }
  }
}

void ContractPlan::choose_blocks() {
  // One row reads its weights once: nothing to keep in a cache between blocks of k.
  const int64_t depth_block = rows_ == 1 ? std::max<int64_t>(depth_, 1) : kDepthBlock;
  const int64_t blocks = std::max<int64_t>(1, (depth_ + depth_block / 2) / depth_block);
  const int64_t target = std::max<int64_t>(1, round_up(depth_, blocks) / blocks);
  std::vector<Piece> pieces;
  int64_t filled = 0;
  blocks_.push_back({0, 0});
  for (Piece piece : pieces_) {
    while (piece.k0 < piece.k1) {
      const int64_t room = target - filled;
      int64_t end = std::min(piece.k1, piece.k0 + room);
      if (piece.k1 - end < target / 4) end = piece.k1;
      pieces.push_back({piece.k0, end});
      filled += end - piece.k0;
      piece.k0 = end;
      blocks_.back().last = static_cast<int>(pieces.size());
      if (filled >= target) {
        blocks_.push_back({blocks_.back().last, blocks_.back().last});
        filled = 0;
      }
    }
  }
  if (pieces.empty()) {
    pieces.push_back({0, 0});
    blocks_.back().last = 1;
  }
  if (blocks_.back().first == blocks_.back().last) blocks_.pop_back();
  pieces_ = std::move(pieces);

  const int64_t all_rows = round_up(rows_, tile_rows_);
  const bool packs_rows =
      rows_side_.source == Source::tables || rows_side_.source == Source::computed;
  const bool packs_columns =
      columns_side_.source == Source::tables || columns_side_.source == Source::computed;
  const int64_t depth = std::max<int64_t>(depth_, 1);
  row_block_ = packs_rows ? std::min(all_rows, round_up(std::max<int64_t>(64, kPackedFloats / depth),
                                                        tile_rows_))
                          : all_rows;
  const bool one_block = blocks_.size() == 1;
  row_chunk_ = one_block ? row_block_
                         : std::min(row_block_, round_up(std::max<int64_t>(
                                                             tile_rows_, kSumFloats / width_ - 8),
                                                         tile_rows_));
  // Transposed, the strip's rows become the stretches that are stored.
  strip_rows_ = std::min(row_chunk_, (transposed_ ? 64 : 32) / tile_rows_ * tile_rows_);
  if (rows_ == 1) strip_rows_ = 1;
  strip_panels_ = std::max<int64_t>(1, kStripFloats / (strip_rows_ * width_));
  if (rows_ == 1) {
    const int64_t stream = kernels_.stream_width;
    strip_panels_ = std::max(stream, strip_panels_ / stream * stream);
  }
  strip_panels_ = std::min(strip_panels_, panels_);
  panel_block_ = std::max<int64_t>(1, kSumFloats / (std::min(row_chunk_, all_rows) * width_));
  if (packs_columns) {
    panel_block_ = std::min(panel_block_, std::max<int64_t>(1, kPackedFloats / 2 / (depth * width_)));
  }
  panel_block_ = round_up(panel_block_, strip_panels_);
  if (panel_block_ > panels_) panel_block_ = round_up(panels_, strip_panels_);

  if (packs_rows) row_floats_ = row_block_ * depth;
  if (packs_columns) column_floats_ = panel_block_ * width_ * depth;
  sum_floats_ = one_block ? round_up(strip_rows_, tile_rows_) * strip_panels_ * width_
                          : row_chunk_ * panel_block_ * width_;
  if (transposed_) turned_floats_ = round_up(strip_rows_, tile_rows_) * strip_panels_ * width_;
  prologue_bytes_ = 0;
  if (rows_side_.source == Source::computed) {
    prologue_bytes_ = std::max(prologue_bytes_, rows_side_.prologue->scratch_bytes());
  }
  if (columns_side_.source == Source::computed) {
    prologue_bytes_ = std::max(prologue_bytes_, columns_side_.prologue->scratch_bytes());
  }
}

}  // namespace cpu
}  // namespace onnx_fusion
