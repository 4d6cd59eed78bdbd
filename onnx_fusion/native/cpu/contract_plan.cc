#include "cpu/contract_plan.h"

#include <algorithm>
#include <cstring>

#include "cpu/contract.h"
#include "cpu/contract_axes.h"
#include "cpu/contract_depth.h"
#include "cpu/contract_direct.h"
#include "cpu/contract_group.h"
#include "cpu/contract_narrow.h"
#include "cpu/contract_phase.h"
#include "cpu/contract_strassen.h"
#include "cpu/contract_window.h"
#include "cpu/contract_winograd.h"
#include "cpu/sizes.h"

namespace onnx_fusion {

std::string contract_refusal(const Program& program, size_t stage) {
  const Stage& s = program.stages[stage];
  const int dot = cpu::find_dot(s);
  if (dot < 0) return "a contraction needs a dot";
  for (const Instruction& line : s.body) {
    if (line.op == Op::op_store && (line.letters & s.body[dot].over) != 0) {
      return "line " + std::to_string(line.line) + ": an operand of the dot is stored too";
    }
  }
  return "";
}

namespace {

using Planner = std::unique_ptr<StagePlan> (*)(const BoundProgram& bound, size_t stage,
                                               const TensorView* constants, size_t count);

template <class Plan>
std::unique_ptr<StagePlan> plan_as(const BoundProgram& bound, size_t stage,
                                   const TensorView* constants, size_t count) {
  return Plan::make(bound, stage, constants, count);
}

// Special kinds, in the order in which they are asked; each gives null for a stage of another.
constexpr Planner kPlanners[] = {
    cpu::plan_phases,         plan_as<cpu::DepthPlan>,    plan_as<cpu::GroupPlan>,
    plan_as<cpu::WindowPlan>, plan_as<cpu::WinogradPlan>, plan_as<cpu::DirectPlan>,
    plan_as<cpu::NarrowPlan>, plan_as<cpu::StrassenPlan>,
};

}  // namespace

std::unique_ptr<StagePlan> plan_contraction(const BoundProgram& bound, size_t stage,
                                            const TensorView* constants, size_t count) {
  for (const Planner planner : kPlanners) {
    if (bound.stages[stage].empty) break;
    auto plan = planner(bound, stage, constants, count);
    if (plan != nullptr) return plan;
  }
  auto plan = std::make_unique<cpu::ContractPlan>(bound, stage, constants, count, true);
  if (!plan->fails()) return plan;
  return std::make_unique<cpu::ContractPlan>(bound, stage, constants, count, false);
}

namespace cpu {
namespace {

constexpr int64_t kMostLines = 192, kMostPages = 32;  // that an indexed row touches
constexpr int64_t kIndexedRows = 9;                   // at least
constexpr int64_t kLongRun = 16;  // of k: shorter pieces cost more than indices

constexpr double kLoad = 0.05;  // cycles of a load beside a multiplication

// An operand as far as the choice of its side needs it.
struct Candidate {
  const DotOperand* operand;
  int64_t extent;
  bool constant;
};

bool is_guarded_by(const BoundMap& map, int letter) {
  return std::any_of(map.dims.begin(), map.dims.end(), [&](const BoundIndex& dim) {
    return dim.guarded && dim.form.coef[letter] != 0;
  });
}

// Cycles to bring an element into a panel of columns, and into a tile of rows: measured, roughly.
double column_cost(const BoundStage& stage, const Candidate& x, const Axis& k) {
  const BoundMap* map = x.operand->map;
  if (x.constant) return 0;
  if (map == nullptr) return 1.5;
  int letter = 0;
  const int64_t step = least_step(stage, x.operand->own, map->address, &letter);
  if (step == 1) return 0.1;
  if (step == 2) return 0.3;
  const bool along_k = least_step(stage, k, map->address, &letter) == 1;
  return along_k && k.count == 1 && !map->guarded ? 0.25 : 1.0;
}

// Whether a row's elements lie on few lines and pages, so that it pays to read them where they are.
bool is_near(const BoundStage& stage, const BoundMap& map, const Axis& k) {
  int64_t lines = 1, pages = 1;
  for (int i = 0; i < k.count; ++i) {
    const int letter = k.letters[i];
    const int64_t step = std::abs(map.address.coef[letter]) * static_cast<int64_t>(sizeof(float));
    if (step >= 64) lines *= stage.extents[letter];
    if (step >= 4096) pages *= stage.extents[letter];
    if (lines > kMostLines || pages > kMostPages) return false;
  }
  return true;
}

double row_cost(const BoundStage& stage, const Candidate& x, const Axis& k) {
  const BoundMap* map = x.operand->map;
  if (x.constant) return 0;
  if (map == nullptr) return 1.5;
  int letter = 0;
  if (least_step(stage, k, map->address, &letter) == 1 && stage.extents[letter] >= 8 &&
      !is_guarded_by(*map, letter)) {
    return 0.02;
  }
  // Windows of lines (contract_lines.cc).
  if (map->guarded && x.extent >= kIndexedRows &&
      least_step(stage, k, map->address, &letter) == 1 && is_guarded_by(*map, letter) &&
      least_step(stage, x.operand->own, map->address, &letter) <= 8 && is_near(stage, *map, k)) {
    return 0.05;
  }
  // Rows at the border are copied; the wider the vectors, the more that is beside the product.
  return x.extent >= kIndexedRows && is_near(stage, *map, k) ? gemm_kernels().lanes / 40.0 : 1.0;
}

// Of one or two rows: so that all panels are read in the fewest goes, `most` panels of one width
// each.
int choose_streams(int64_t vectors, int64_t most) {
  int best = 1;
  int64_t least = 0;
  for (int v = 1; v <= tile_kernels().max_vectors && v <= vectors; ++v) {
    const int64_t goes = (vectors / v + most - 1) / most + (vectors % v != 0 ? 1 : 0);
    if (least > 0 && goes > least) continue;
    best = v;
    least = goes;
  }
  return best;
}

}  // namespace

// Multiplications two at once, four steps late, and some time for each load.
int choose_width(int64_t vectors, bool halved) {
  const TileKernels& tiles = tile_kernels();
  const auto cost = [&](int64_t width, bool half) {
    const double rows = tiles.rows[width], v = static_cast<double>(width) - (half ? 0.5 : 0.0);
    return (std::max({rows * v / 2, (rows + v) / 2, 4.0}) + kLoad * (rows + v)) / rows;
  };
  int best = 1;
  double least = 0;
  for (int v = 1; v <= tiles.max_vectors && v <= vectors; ++v) {
    const int64_t last = (vectors - 1) % v + 1;
    if (halved && last > tiles.halved) continue;
    const double all =
        static_cast<double>((vectors - last) / v) * cost(v, false) + cost(last, halved);
    if (least > 0 && all > least) continue;
    best = v;
    least = all;
  }
  return best;
}

ContractPlan::ContractPlan(const BoundProgram& bound, size_t stage, const TensorView* constants,
                           size_t count, bool scales)
    : kernels_(gemm_kernels()),
      tiles_(tile_kernels()),
      stage_(bound.stages[stage]),
      stage_index_(stage) {
  if (stage_.empty) return;
  DotLetters letters = dot_letters(stage_);
  if (scales) factor_ = take_factor(bound, stage_, &letters, constants, count);
  choose_axes(letters, constants, count);
  const bool swapped = letters.operands[0].value != row_value_;
  const DotOperand& rows = letters.operands[swapped ? 1 : 0];
  const DotOperand& columns = letters.operands[swapped ? 0 : 1];
  choose_row_source(bound, rows,
                    is_constant(rows, constants, count) ? &constants[rows.tensor] : nullptr);
  choose_column_source(
      bound, columns,
      is_constant(columns, constants, count) ? &constants[columns.tensor] : nullptr);
  if (columns_side_.source != Source::cached) unit_ = kernels_.lanes;
  if (factor_ >= 0 && columns_side_.source == Source::cached) {
    columns_side_.source = Source::scaled;
    columns_side_.prologue = std::make_unique<Prologue>(bound, stage, factor_, Axis(), k_);
  }
  epilogue_ = transposed_ ? std::make_unique<Epilogue>(bound, stage, column_, row_)
                          : std::make_unique<Epilogue>(bound, stage, row_, column_);
  choose_blocks();
  const std::vector<int64_t>& rows_at = rows_side_.tables.outer;
  const bool in_place = rows_side_.source == Source::direct && row_step_ == 1 && padding_.empty();
  if (in_place && rows_ > 1) apart_ = rows_at[1] - rows_at[0];
  for (int64_t r = 1; r < rows_ && apart_ > 0; ++r) {
    if (rows_at[r] - rows_at[r - 1] != apart_) apart_ = 0;
  }
}

void ContractPlan::choose_axes(const DotLetters& letters, const TensorView* constants,
                               size_t count) {
  const Linear* store = letters.store;
  batch_ = letters.batch;
  k_ = letters.k;
  batches_ = axis_extent(stage_, batch_);
  depth_ = axis_extent(stage_, k_);
  Candidate operands[2];
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    operands[i] = {&x, axis_extent(stage_, x.own), is_constant(x, constants, count)};
  }
  const int lanes = kernels_.lanes;
  // What is packed at run time, or read by `stream`, is in whole vectors.
  const auto unit = [&](int columns) {
    return tiles_.halved > 0 && operands[columns].constant && operands[1 - columns].extent > 2
               ? lanes / 2
               : lanes;
  };
  double least = 0;
  int best = -1;
  for (int i = 1; i >= 0; --i) {
    const Candidate &columns = operands[i], &rows = operands[1 - i];
    if (factor_ >= 0 && !columns.constant) continue;
    const double m = static_cast<double>(rows.extent), n = static_cast<double>(columns.extent);
    const double k = static_cast<double>(std::max<int64_t>(depth_, 1));
    int letter = 0;
    const bool transposed = m > 1 &&
                            least_step(stage_, columns.operand->own, *store, &letter) != 1 &&
                            least_step(stage_, rows.operand->own, *store, &letter) == 1;
    const double cost = m * k * static_cast<double>(round_up(columns.extent, unit(i))) / lanes +
                        n * k * column_cost(stage_, columns, k_) +
                        m * k * row_cost(stage_, rows, k_) + (transposed ? 0.2 * m * n : 0.0);
    if (best >= 0 && cost >= least) continue;
    best = i;
    least = cost;
    transposed_ = transposed;
  }
  const DotOperand &row = letters.operands[1 - best], &column = letters.operands[best];
  row_ = row.own;
  column_ = column.own;
  row_value_ = row.value;
  column_value_ = column.value;
  rows_ = operands[1 - best].extent;
  columns_ = operands[best].extent;
  // k in the order in which the operand that is not constant lies in memory.
  const bool rows_lead = row.map != nullptr && !operands[1 - best].constant;
  const BoundMap* lead = rows_lead ? row.map : column.map;
  if (lead != nullptr) sort_axis(&k_, lead->address);
  sort_axis(&batch_, *store);
  sort_axis(&row_, *store);
  sort_axis(&column_, *store);

  const int64_t vectors = round_up(columns_, lanes) / lanes;
  unit_ = unit(best);
  vectors_ = rows_ <= 2
                 ? choose_streams(vectors, tile_kernels().streams[std::max<int64_t>(rows_, 1)])
                 : choose_width(vectors, round_up(columns_, unit_) % lanes != 0);
  width_ = static_cast<int64_t>(vectors_) * lanes;
  panels_ = round_up(columns_, width_) / width_;
  tile_rows_ = tiles_.rows[vectors_];
}

void ContractPlan::choose_row_source(const BoundProgram& bound, const DotOperand& operand,
                                     const TensorView* constant) {
  Side& side = rows_side_;
  side.tensor = operand.tensor;
  if (operand.map == nullptr ||
      !build_tables(stage_, *operand.map, operand.fill, batch_, row_, k_, &side.tables)) {
    side.prologue = std::make_unique<Prologue>(bound, stage_index_, row_value_, row_, k_);
    return;
  }
  if (constant != nullptr) return cache_rows(*constant);
  const bool guarded = !side.tables.guards.empty();
  const RunTables runs = build_runs(side.tables);
  const int64_t pieces = static_cast<int64_t>(runs.runs.size());
  const bool long_runs = pieces <= 1 || depth_ / pieces >= kLongRun;
  const bool in_place = runs.step == 1 || (!guarded && panels_ <= 2);
  if (!long_runs || !in_place) {
    side.source = Source::tables;
    if (rows_ >= kIndexedRows && choose_lines()) {
      side.source = Source::indexed;
      return;
    }
    if (rows_ < kIndexedRows || !is_near(stage_, *operand.map, k_)) return;
    side.source = Source::indexed;
    runs_ = runs.runs;
    inside_ = find_inside(side.tables);
    return;
  }
  side.source = Source::direct;
  row_step_ = runs.step;
  int64_t longest = 0;
  for (const Run& run : runs.runs) {
    pieces_.push_back({run.begin, run.end});
    longest = std::max(longest, run.end - run.begin);
  }
  if (guarded) padding_.assign(static_cast<size_t>(longest), side.tables.fill);
}

void ContractPlan::choose_column_source(const BoundProgram& bound, const DotOperand& operand,
                                        const TensorView* constant) {
  Side& side = columns_side_;
  side.tensor = operand.tensor;
  if (operand.map == nullptr ||
      !build_tables(stage_, *operand.map, operand.fill, batch_, column_, k_, &side.tables)) {
    side.prologue = std::make_unique<Prologue>(bound, stage_index_, column_value_, k_, column_);
    return;
  }
  const int64_t padded = panels_ * width_;
  OperandTables& tables = side.tables;
  column_tables_ = build_columns(tables.outer, kernels_.lanes, padded);
  const std::vector<ColumnVector>& vectors = column_tables_.vectors;
  const RunTables runs = build_runs(tables);
  const bool plain = tables.guards.empty() && runs.runs.size() <= 1;
  const bool whole = std::all_of(vectors.begin(), vectors.end(), [](const ColumnVector& v) {
    return v.kind == kOneRun || v.lanes == 0;
  });
  along_k_ = plain && !whole && runs.step == 1 && depth_ >= kernels_.lanes;
  for (TableGuard& guard : tables.guards) {
    guard.outer.resize(static_cast<size_t>(padded), 0);
    column_guards_.push_back({guard.outer.data(), guard.inner.data(),
                              guard.values.empty() ? nullptr : guard.choice.data(),
                              guard.values.data(), static_cast<int>(guard.values.size()),
                              guard.extent});
  }
  if (constant != nullptr) return cache_columns(*constant);
  bool together = rows_ == 1 && plain && depth_ > 1;
  for (int64_t c = 0; together && c < columns_; ++c) {
    together = tables.outer[c] == tables.outer[0] + c;
  }
  bool whole_panels = plain && whole && columns_ % width_ == 0;
  for (int64_t c = 0; whole_panels && c < columns_; ++c) {
    whole_panels = tables.outer[c] == tables.outer[c / width_ * width_] + c % width_;
  }
  const bool row_in_place = rows_side_.source == Source::direct && row_step_ == 1 &&
                            padding_.empty() && pieces_.size() == 1;
  if (rows_ == 1 && along_k_ && row_in_place) {
    side.source = Source::dots;
  } else if (together) {
    side.source = Source::lines;
    column_step_ = runs.step;
  } else if (rows_ <= tile_rows_ && whole_panels && depth_ > 1) {
    side.source = Source::direct;
    column_step_ = runs.step;
  } else {
    side.source = Source::tables;
  }
}

}  // namespace cpu
}  // namespace onnx_fusion
