#include "cpu/affine.h"

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/past_cache.h"
#include "cpu/tiles_plan.h"

namespace onnx_fusion::cpu {
namespace {

constexpr double kNanoseconds = 0.15;  // of an element
constexpr int64_t kLeastColumns = 16;

// The line of the one load that has every letter, before which there are only loads and constants.
int find_source(const Stage& stage, LetterSet letters) {
  int found = -1;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    const Instruction& line = stage.body[i];
    if (line.op == Op::op_const) continue;
    if (line.op != Op::op_load) return found;
    if ((line.letters & letters) != letters) continue;
    if (found >= 0 || line.dtype != DType::f32) return -1;
    found = static_cast<int>(i);
  }
  return -1;
}

// Whether rows are as far from each other as the last letter's positions; *step takes how far.
bool find_step(const BoundStage& stage, const Axis& rows, const Linear& address, int64_t* step) {
  int64_t run = 1;
  for (int k = rows.count; k-- > 0; run *= stage.extents[rows.letters[k]]) {
    const int64_t apart = address.coef[rows.letters[k]];
    if (run == 1) *step = apart;
    if (apart != *step * run) return false;
  }
  return true;
}

}  // namespace

std::unique_ptr<AffinePlan> AffinePlan::make(const BoundProgram& bound, size_t stage) {
  const BoundStage& s = bound.stages[stage];
  const std::vector<int> stores = stores_of(s);
  if (s.empty != 0 || stores.size() != 1) return nullptr;
  const size_t stored = static_cast<size_t>(stores[0]);
  Axis rows, columns;
  LetterSet letters = 0;
  for (const uint8_t l : order_by(s, s.maps[stored].address)) {
    if (s.extents[l] == 1) continue;
    letters |= static_cast<LetterSet>(1u << l);
    rows.letters[rows.count++] = l;
  }
  if (rows.count < 2) return nullptr;
  columns.letters[columns.count++] = rows.letters[--rows.count];
  std::unique_ptr<AffinePlan> plan(new AffinePlan);
  plan->rows_ = axis_extent(s, rows);
  plan->columns_ = axis_extent(s, columns);
  const int source = find_source(*s.stage, letters);
  if (source < 0 || plan->columns_ < kLeastColumns) return nullptr;
  const BoundMap& map = s.maps[static_cast<size_t>(source)];
  const bool lies = map.linear && !map.guarded && !map.indirect;
  if (!lies || map.address.coef[columns.letters[0]] != 1) return nullptr;
  if (!find_step(s, rows, map.address, &plan->ld_)) return nullptr;
  plan->input_ = s.stage->body[static_cast<size_t>(source)].tensor;
  plan->base_ = map.address.base;
  plan->finish_ = Finish::make(s, source, rows, columns);
  if (plan->finish_ == nullptr || !plan->finish_->is_affine()) return nullptr;
  const BoundTensor& out = bound.tensors[static_cast<size_t>(s.stage->body[stored].tensor)];
  const int64_t bytes = out.elements * static_cast<int64_t>(sizeof(float));
  return bytes < past_cache_bytes() ? std::move(plan) : nullptr;
}

void AffinePlan::run(const RunContext& context) const {
  const float* const x = reinterpret_cast<const float*>(context.tensors[input_]) + base_;
  const double points = static_cast<double>(rows_) * static_cast<double>(columns_);
  const int64_t tasks = task_count(*context.parallel, points * kNanoseconds);
  const int64_t fixed[kMaxLetters] = {};
  parallel_ranges(*context.parallel, rows_, tasks, [&](int64_t begin, int64_t end, int64_t) {
    finish_passes().all(
        finish_->rows(context, fixed, begin, end, 0, columns_, x + begin * ld_, ld_));
  });
}

}  // namespace onnx_fusion::cpu
