// How an attention runs. A task takes blocks of rows; per batch it packs keys and values once:
//
//   scores (rows x keys, in the cache) = query rows * packed keys
//   scores                             = softmax of them, in place, without the division
//   result (rows x features)           = scores * packed values, then divided, then the epilogue
//
// Very long rows take their keys block by block, and what was summed before is rescaled whenever a
// larger score is met.
#pragma once

#include <memory>

#include "cpu/attention_kernels.h"
#include "cpu/attention_operand.h"

namespace onnx_fusion::cpu {

class AttentionPlan final : public StagePlan {
 public:
  AttentionPlan(const BoundProgram& bound, const AttentionMatch& match);
  void run(const RunContext& context) const override;

 private:
  struct Buffers;
  struct Place {
    int64_t row0, row1;
    ColumnView keys, values;
    float key_magnitude, value_magnitude;  // negative if they are not known yet
    // The positions of the stages' letters.
    int64_t scores[kMaxLetters], softmax[kMaxLetters], product[kMaxLetters];
  };

  void choose_blocks();
  void run_block(const RunContext& context, Place* place, const Buffers& buffers) const;
  void run_rows(const RunContext& context, const Place& place, const float* const* queries,
                int64_t keys, const Buffers& buffers) const;
  void find_queries(const RunContext& context, const Place& place, const Buffers& buffers,
                    const float** rows) const;
  float* weigh(const RunContext& context, const Place& place, const Buffers& buffers, int64_t key0,
               int64_t key1) const;
  // attention_limit.cc: does a mask take keys out at the end of a row; what no score exceeds
  // (infinity if that is not known); and how many keys these rows need.
  bool masks_ends(const RunContext& context, const Place& place) const;
  float bound_scores(const Place& place, const float* const* queries, int64_t count) const;
  int64_t count_keys(const RunContext& context, const Place& place, int64_t row0, int64_t row1,
                     float bound) const;

  AttentionMatch match_;
  ColumnOperand keys_, values_;
  RowOperand queries_;
  ScoreFinish finish_;
  // Where the plain way does not do: from the dot to the score, from there to what the softmax is
  // taken of, from its quotient to the weight, and from there to the operand of the product.
  std::unique_ptr<Relay> score_, exponent_, weight_, weighing_;
  Epilogue epilogue_;
  PlaneRows output_;      // where the divided result goes
  bool divides_ = false;  // nothing follows it: it is divided on the way there

  bool looks_for_ends_ = false;
  int64_t row_block_ = 1, key_block_ = 1, row_blocks_ = 1;
  int64_t score_ld_ = 0, result_ld_ = 0;
  int64_t query_floats_ = 0, score_floats_ = 0, result_floats_ = 0;
  size_t scratch_bytes_ = 0;  // of tile programs
};

}  // namespace onnx_fusion::cpu
