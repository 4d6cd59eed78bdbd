// A contraction of constant weights with an input whose pixels lie in rows: convolution on ONNX's
// own layout. Input rows are read where they lie, so nothing is packed; vectors run along the
// outputs' rows, and each one loaded serves a tile of output channels.
#pragma once

#include <memory>
#include <vector>

#include "cpu/contract_tables.h"
#include "cpu/weights.h"

namespace onnx_fusion::cpu {

class DirectPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind, or if packing is expected to be faster.
  static std::unique_ptr<DirectPlan> make(const BoundProgram& bound, size_t stage,
                                          const TensorView* constants, size_t count);
  void run(const RunContext& context) const override;

 private:
  DirectPlan() = default;
  bool plan_vectors(int lanes, int64_t elements);
  bool plan_weights(const TensorView& weights);
  void run_rows(const RunContext& context) const;
  void run_channels(const RunContext& context) const;

  size_t stage_index_ = 0;
  Axis batch_, row_, pixel_, k_;
  int64_t batches_ = 1, rows_ = 1, pixels_ = 1, depth_ = 1;
  int64_t tile_rows_ = 1;
  int input_ = -1;  // tensor
  OperandTables x_, w_;
  int step_ = 1;
  bool by_channel_ = false;

  std::vector<WindowVector> vectors_;
  std::vector<uint16_t> masks_;    // [vector][place]
  std::vector<uint16_t> place_;    // per k: which mask; empty without guards
  int64_t places_ = 0;
  std::vector<int64_t> strips_;    // vectors at which strips begin, and the end
  int64_t strip_pixels_ = 0;       // of the longest
  std::shared_ptr<const PackedWeights> weights_;
  std::vector<int64_t> slot_;      // per batch, where its weights begin
  std::unique_ptr<Epilogue> epilogue_;
};

}  // namespace onnx_fusion::cpu
