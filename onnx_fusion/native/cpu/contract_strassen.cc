#include "cpu/contract_strassen.h"

#include <algorithm>

#include "cpu/contract_plan.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLeastRows = 64;     // weights come from far, and there are 7/4 as many
constexpr int64_t kMostRows = 240;     // of a chunk
constexpr int64_t kDepthBlock = 384;   // k between two passes over the accumulators
constexpr int64_t kProductFloats = 96 << 10;  // that wait to be joined
constexpr int64_t kHeldFloats = 100 << 10;    // the same over blocks of k
constexpr int64_t kMostAlone = 64;     // rows without a partner, see pair_near

// The part of the tables that one quarter of the columns' matrix is. Columns behind the last are
// that one again: nobody reads what becomes of them.
OperandTables quarter(const OperandTables& tables, int64_t column, int64_t columns, int64_t k,
                      int64_t depth) {
  OperandTables part;
  const int64_t all = static_cast<int64_t>(tables.outer.size());
  for (int64_t c = column; c < column + columns; ++c) {
    part.outer.push_back(tables.outer[static_cast<size_t>(std::min(c, all - 1))]);
  }
  part.inner.assign(tables.inner.begin() + k, tables.inner.begin() + k + depth);
  return part;
}

}  // namespace

std::unique_ptr<StrassenPlan> StrassenPlan::make(const BoundProgram& bound, size_t stage,
                                                 const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  if (bound.program->strict) return nullptr;
  const DotLetters letters = dot_letters(s);
  if (letters.batch.count > 0) return nullptr;
  for (int i = 0; i < 2; ++i) {
    const DotOperand &x = letters.operands[i], &w = letters.operands[1 - i];
    if (x.map == nullptr || w.map == nullptr || x.map->guarded || w.map->guarded) continue;
    if (is_constant(x, constants, count) || !is_constant(w, constants, count)) continue;
    std::unique_ptr<StrassenPlan> plan(new StrassenPlan);
    plan->stage_ = &s;
    plan->row_ = x.own;
    plan->column_ = w.own;
    plan->rows_ = axis_extent(s, x.own);
    plan->columns_ = axis_extent(s, w.own);
    const int64_t depth = axis_extent(s, letters.k);
    plan->half_ = depth / 2;
    if (depth % 2 != 0 || !plan->choose_sizes()) continue;
    Axis k = letters.k;
    sort_axis(&k, x.map->address);
    sort_axis(&plan->row_, *letters.store);
    sort_axis(&plan->column_, *letters.store);
    OperandTables rows, columns;
    if (!build_tables(s, *x.map, x.fill, letters.batch, plan->row_, k, &rows) ||
        !build_tables(s, *w.map, w.fill, letters.batch, plan->column_, k, &columns)) {
      continue;
    }
    const RunTables runs = build_runs(rows);
    const bool together = runs.runs.size() == 1 && runs.step == 1;
    if (!rows.guards.empty() || !columns.guards.empty() || !together) continue;
    for (const int64_t outer : rows.outer) {
      plan->outer_.push_back(outer + rows.inner[0] + rows.batch[0]);
    }
    for (int64_t& outer : columns.outer) outer += columns.batch[0];
    plan->tensor_ = x.tensor;
    plan->zeros_.assign(static_cast<size_t>(depth), 0.0f);
    if (!plan->pack(constants[w.tensor], columns)) continue;
    int letter = 0;
    plan->transposed_ = least_step(s, plan->column_, *letters.store, &letter) != 1 &&
                        least_step(s, plan->row_, *letters.store, &letter) == 1;
    plan->epilogue_ = plan->transposed_
                          ? std::make_unique<Epilogue>(bound, stage, plan->column_, plan->row_)
                          : std::make_unique<Epilogue>(bound, stage, plan->row_, plan->column_);
    return plan;
  }
  return nullptr;
}

// Whether an eighth of the product is clearly more than what comes with it, as shares of the
// product: measured on Zen 4, and within 0.04 of that on Zen 3 with AVX2. Rows' sums are shared by
// all columns, what joins products by all k, and the weights, of which there are 7/4, by all rows.
// What saves less than 5.4 % is not worth that memory: bert_base's products of 768x768 and 128 rows
// took a session to 1.35 times ONNX Runtime's peak.
bool StrassenPlan::pays() const {
  const double m = static_cast<double>(rows_), n = static_cast<double>(columns_);
  const double k = 2.0 * static_cast<double>(half_), padded = 2.0 * static_cast<double>(left_);
  return padded / n * 0.875 + 20 / n + 24 / k + 2 / m < 0.946;
}

bool StrassenPlan::choose_sizes() {
  const TileKernels& tiles = tile_kernels();
  lanes_ = gemm_kernels().lanes;
  if (rows_ < kLeastRows || half_ < 2 * lanes_ || columns_ < 4 * lanes_) return false;
  left_ = round_up((columns_ + 1) / 2, lanes_);
  if (!pays()) return false;
  vectors_ = choose_width(left_ / lanes_, false);
  width_ = static_cast<int64_t>(vectors_) * lanes_;
  panels_ = round_up(left_, width_) / width_;
  tile_rows_ = tiles.rows[vectors_];
  const int64_t chunks = (rows_ + kMostRows - 1) / kMostRows;
  chunk_ = std::min(rows_, round_up((rows_ + chunks - 1) / chunks, 2 * tile_rows_));
  pairs_ = (chunk_ + kMostAlone) / 2 + 1;
  blocks_ = std::max<int64_t>(1, (half_ + kDepthBlock / 2) / kDepthBlock);
  const int64_t held = blocks_ == 1 ? kProductFloats : kHeldFloats;
  const int64_t each = kStrassenProducts * (chunk_ + 1) / 2 * width_;  // floats of a panel's
  group_ = std::clamp<int64_t>(held / each, 1, panels_);
  ld_ = group_ * width_;
  for (int64_t block = 0; block < blocks_; ++block) {
    sum_step_ = std::max(sum_step_, round_up(block_begin(block + 1) - block_begin(block), 16) + 16);
  }
  return true;
}

int64_t StrassenPlan::panel_vectors(int64_t panel) const {
  return std::min<int64_t>(vectors_, left_ / lanes_ - panel * vectors_);
}

Weights StrassenPlan::find_weights(int product, int64_t block, int64_t panel) const {
  const int64_t width = panel_vectors(panel) * lanes_, begin = block_begin(block);
  const float* weights = weights_->data() + (product * panels_ + panel) * width_ * half_;
  return {weights + begin * width, (block_begin(block + 1) - begin) * width};
}

// As [product][panel][k][column of the panel].
bool StrassenPlan::pack(const TensorView& constant, const OperandTables& tables) {
  ContentHash key = hash_constant(constant);
  const int64_t layout[] = {'s', left_, width_, lanes_};
  key.add(layout, sizeof layout);
  key.add_values(tables.outer);
  key.add_values(tables.inner);
  const float* data = static_cast<const float*>(constant.data);
  const int64_t floats = panels_ * width_ * half_;
  weights_ = share_weights(key, static_cast<size_t>(kStrassenProducts * floats), [&](float* out) {
    // A panel's quarters at a time: l1, r1, l2, r2.
    std::vector<float> parts(static_cast<size_t>(4 * width_ * half_));
    for (int64_t panel = 0; panel < panels_; ++panel) {
      const int64_t width = panel_vectors(panel) * lanes_, count = width * half_;
      for (int q = 0; q < 4; ++q) {
        const OperandTables part =
            quarter(tables, q % 2 * left_ + panel * width_, width, q / 2 * half_, half_);
        pack_panels(data, part, width, width, parts.data() + q * count);
      }
      const float* l1 = parts.data();
      const float *r1 = l1 + count, *l2 = r1 + count, *r2 = l2 + count;
      float* to = out + panel * width_ * half_;
      for (int64_t i = 0; i < count; ++i, ++to) {
        to[0] = l1[i] + r2[i];
        to[floats] = l1[i];
        to[2 * floats] = r1[i] - r2[i];
        to[3 * floats] = l2[i] - l1[i];
        to[4 * floats] = r2[i];
        to[5 * floats] = l1[i] + r1[i];
        to[6 * floats] = l2[i] + r2[i];
      }
    }
  });
  return weights_ != nullptr;
}

}  // namespace onnx_fusion::cpu
