// A contraction of constant weights with few columns, whose rows lie in long runs of k: a
// convolution of channels-last pixels with one or a few outputs, or along a signal. Vectors along
// the columns would be nearly empty; these lie along k.
#pragma once

#include <memory>
#include <vector>

#include "cpu/contract_axes.h"
#include "cpu/contract_tables.h"
#include "cpu/weights.h"

namespace onnx_fusion::cpu {

class NarrowPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind, or if vectors along the columns are expected to be
  // faster.
  static std::unique_ptr<NarrowPlan> make(const BoundProgram& bound, size_t stage,
                                          const TensorView* constants, size_t count);
  void run(const RunContext& context) const override;

 private:
  NarrowPlan() = default;
  void split_columns(const BoundStage& stage, const Axis& own, const Linear& store);
  bool plan_runs(int64_t lanes);
  bool plan_weights(const TensorView& weights, int64_t lanes);
  void copy_row(const float* x, int64_t row, float* to) const;
  void run_strip(const float* x, const float* weights, int64_t row0, int64_t row1, float* sums,
                 float* copies) const;

  size_t stage_index_ = 0;
  Axis batch_, row_, column_, k_;
  int64_t batches_ = 1, rows_ = 1, columns_ = 1, depth_ = 1;
  int64_t strip_ = 1;  // rows
  int input_ = -1;     // tensor
  OperandTables x_, w_;
  bool transposed_ = false;            // stores are contiguous along the rows
  std::vector<int64_t> offsets_, lengths_;  // of runs of k
  std::vector<int64_t> copied_;        // offsets of the runs in a copied row
  std::vector<Run> pieces_;            // of k, inside or outside together
  std::vector<uint8_t> inside_;        // per row; empty: all are
  int64_t weight_floats_ = 0;          // of a batch
  std::shared_ptr<const PackedWeights> weights_;
  std::vector<int64_t> slot_;          // per batch, where its weights begin
  std::unique_ptr<Epilogue> epilogue_;
};

}  // namespace onnx_fusion::cpu
