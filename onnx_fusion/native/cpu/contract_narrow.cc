#include "cpu/contract_narrow.h"

#include <algorithm>
#include <cstring>

#include "cpu/narrow_kernels.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kStripSums = 2048;
constexpr int64_t kLeastRows = 16;
constexpr int64_t kAdding = 3;  // products that adding up a sum's lanes costs
constexpr double kGain = 0.8;   // of the products that vectors along the columns need

}  // namespace

std::unique_ptr<NarrowPlan> NarrowPlan::make(const BoundProgram& bound, size_t stage,
                                             const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  const int64_t lanes = gemm_kernels().lanes;
  const DotLetters letters = dot_letters(s);
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (x.map == nullptr || w.map == nullptr || w.map->guarded) continue;
    if (is_constant(x, constants, count) || !is_constant(w, constants, count)) continue;
    if (axis_extent(s, w.own) > lanes) continue;
    std::unique_ptr<NarrowPlan> plan(new NarrowPlan);
    plan->stage_index_ = stage;
    plan->input_ = x.tensor;
    plan->row_ = x.own;
    plan->k_ = letters.k;
    plan->batch_ = letters.batch;
    plan->split_columns(s, w.own, *letters.store);
    sort_axis(&plan->row_, *letters.store);
    sort_axis(&plan->batch_, *letters.store);
    sort_axis(&plan->k_, x.map->address);
    plan->batches_ = axis_extent(s, plan->batch_);
    plan->rows_ = axis_extent(s, plan->row_);
    plan->columns_ = axis_extent(s, plan->column_);
    plan->depth_ = axis_extent(s, plan->k_);
    if (plan->columns_ > narrow_kernels().columns || plan->rows_ < kLeastRows) continue;
    if (!build_tables(s, *x.map, x.fill, plan->batch_, plan->row_, plan->k_, &plan->x_) ||
        !build_tables(s, *w.map, 0.0f, plan->batch_, plan->column_, plan->k_, &plan->w_) ||
        !plan->plan_runs(lanes) || !plan->plan_weights(constants[w.tensor], lanes)) {
      continue;
    }
    int letter = 0;
    const bool along = least_step(s, plan->row_, *letters.store, &letter) == 1;
    plan->transposed_ =
        plan->columns_ == 1 ||
        (along && letters.store->coef[plan->column_.letters[plan->column_.count - 1]] != 1);
    const Axis& rows = plan->transposed_ ? plan->column_ : plan->row_;
    const Axis& columns = plan->transposed_ ? plan->row_ : plan->column_;
    plan->epilogue_ = std::make_unique<Epilogue>(bound, stage, rows, columns);
    plan->strip_ = std::min(plan->rows_, round_up(kStripSums / plan->columns_, kMostNarrowRows));
    return plan;
  }
  return nullptr;
}

// Columns that do not lie evenly in memory are batches: a row's results then lie together, and
// those of the next row may follow.
void NarrowPlan::split_columns(const BoundStage& stage, const Axis& own, const Linear& store) {
  Axis sorted = own;
  sort_axis(&sorted, store);
  int first = sorted.count;
  int64_t run = 1;
  for (int i = sorted.count; i-- > 0; first = i) {
    const int letter = sorted.letters[i];
    if (run > 1 && store.coef[letter] != run * store.coef[sorted.letters[sorted.count - 1]]) break;
    run *= stage.extents[letter];
  }
  for (int i = 0; i < sorted.count; ++i) {
    Axis& to = i < first ? batch_ : column_;
    to.letters[to.count++] = sorted.letters[i];
  }
}

bool NarrowPlan::plan_runs(int64_t lanes) {
  OperandTables open;
  open.inner = x_.inner;
  const RunTables runs = build_runs(open);
  if (runs.step != 1 || depth_ < 1) return false;
  int64_t vectors = 0;
  for (const Run& run : runs.runs) {
    offsets_.push_back(x_.inner[run.begin]);
    lengths_.push_back(run.end - run.begin);
    copied_.push_back(run.begin);
    vectors += round_up(run.end - run.begin, lanes) / lanes;
  }
  if (static_cast<double>(columns_ * (vectors + kAdding)) >= kGain * static_cast<double>(depth_)) {
    return false;
  }
  weight_floats_ = vectors * columns_ * lanes;
  if (x_.guards.empty()) return true;
  pieces_ = build_runs(x_).runs;
  inside_ = find_inside(x_);
  return true;
}

bool NarrowPlan::plan_weights(const TensorView& weights, int64_t lanes) {
  const std::vector<int64_t> begins = number_slots(w_, weight_floats_, &slot_);
  ContentHash key = hash_constant(weights);
  key.add("narrow", 6);
  key.add(&lanes, sizeof lanes);
  key.add_values(w_.batch);
  key.add_values(w_.outer);
  key.add_values(w_.inner);
  key.add_values(lengths_);
  const float* data = static_cast<const float*>(weights.data);
  const size_t floats = begins.size() * static_cast<size_t>(weight_floats_);
  weights_ = share_weights(key, floats, [&](float* out) {
    for (const int64_t begin : begins) {
      for (size_t run = 0; run < lengths_.size(); ++run) {
        for (int64_t at = 0; at < lengths_[run]; at += lanes) {
          for (int64_t column = 0; column < columns_; ++column) {
            for (int64_t k = at; k < at + lanes; ++k) {
              *out++ = k < lengths_[run]
                           ? data[begin + w_.outer[column] + w_.inner[copied_[run] + k]]
                           : 0.0f;
            }
          }
        }
      }
    }
  });
  return weights_ != nullptr;
}

// All k of one row, with what is outside filled in.
void NarrowPlan::copy_row(const float* x, int64_t row, float* to) const {
  for (const Run& piece : pieces_) {
    if (is_inside(x_, row, piece.begin)) {
      std::memcpy(to + piece.begin, x + x_.outer[row] + x_.inner[piece.begin],
                  static_cast<size_t>(piece.end - piece.begin) * sizeof(float));
    } else {
      std::fill(to + piece.begin, to + piece.end, x_.fill);
    }
  }
}

void NarrowPlan::run_strip(const float* x, const float* weights, int64_t row0, int64_t row1,
                           float* sums, float* copies) const {
  const NarrowKernels& kernels = narrow_kernels();
  const int columns = static_cast<int>(columns_), most = kernels.rows[columns];
  const float* rows[kMostNarrowRows];
  NarrowTile tile{rows, nullptr, lengths_.data(), static_cast<int>(lengths_.size()), weights, sums};
  for (int64_t row = row0; row < row1; row += most, tile.out += most * columns_) {
    bool inside = true;
    for (int i = 0; i < most; ++i) {
      const int64_t at = std::min(row + i, row1 - 1);
      inside = inside && (inside_.empty() || inside_[at] != 0);
      rows[i] = x + x_.outer[at];
    }
    tile.offsets = inside ? offsets_.data() : copied_.data();
    for (int i = 0; i < most && !inside; ++i) {
      rows[i] = copies + i * depth_;
      copy_row(x, std::min(row + i, row1 - 1), copies + i * depth_);
    }
    kernels.tile(columns, tile);
  }
}

void NarrowPlan::run(const RunContext& context) const {
  const int64_t strips = (rows_ + strip_ - 1) / strip_;
  // A tile stores whole rows and up to a vector more.
  const int64_t floats = round_up((strip_ + kMostNarrowRows) * columns_ + 16, 16);
  const int64_t copies = round_up(kMostNarrowRows * depth_, 16);
  const float* x = reinterpret_cast<const float*>(context.tensors[input_]);
  const double work =
      static_cast<double>(batches_ * rows_) *
      static_cast<double>(weight_floats_ / gemm_kernels().lanes + columns_ * kAdding);
  const int64_t tasks = task_count(*context.parallel, work * 0.3);

  parallel_ranges(
      *context.parallel, batches_ * strips, tasks, [&](int64_t first, int64_t last, int64_t) {
        const Scratch scratch(static_cast<size_t>(2 * floats + copies) * sizeof(float) +
                              epilogue_->scratch_bytes() + 64);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        float* sums = reinterpret_cast<float*>(scratch.data());
        float* turned = sums + floats;
        char* rest = reinterpret_cast<char*>(turned + floats + copies);
        int64_t fixed[kMaxLetters] = {};
        for (int64_t i = first; i < last; ++i) {
          const int64_t batch = i / strips, row0 = i % strips * strip_;
          const int64_t row1 = std::min(rows_, row0 + strip_), count = row1 - row0;
          locate(context.bound->stages[stage_index_], batch_, batch, fixed);
          run_strip(x + x_.batch[batch], weights_->data() + slot_[batch], row0, row1, sums,
                    turned + floats);
          if (!transposed_) {
            epilogue_->run(context, fixed, row0, row1, 0, columns_, sums, columns_, rest);
            continue;
          }
          const float* from = sums;
          if (columns_ > 1) {
            gemm_kernels().transpose(sums, columns_, count, columns_, turned, count);
            from = turned;
          }
          epilogue_->run(context, fixed, 0, columns_, row0, row1, from, count, rest);
        }
      });
}

}  // namespace onnx_fusion::cpu
