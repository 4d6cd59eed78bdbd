// A product of many rows with constant columns by seven products of halves instead of eight
// (Strassen, "Gaussian elimination is not optimal", 1969):
//
//            columns  left | right             m0 = (a1 + b2)(L1 + R2)   m4 = (a1 + a2) R2
//   k of the first half  L1 | R1               m1 = (b1 + b2) L1         m5 = (b1 - a1)(L1 + R1)
//        of the second   L2 | R2               m2 = a1 (R1 - R2)         m6 = (a2 - b2)(L2 + R2)
//   upper row  a1 a2                           m3 = b2 (L2 - L1)
//   lower row  b1 b2
//
//   upper: m0 + m3 - m4 + m6 | m2 + m4         lower: m1 + m3 | m0 - m1 + m2 + m5
//
// The columns' sums are packed once. The rows' are made per chunk of rows: of all k if these are
// few, else per block of k for a group of panels. The seven products of a group stay in the
// second-level cache until they are joined and carried through the epilogue; tiles of the last two
// finish what only these are missing from.
//
// What is rounded in a row is as large as the larger row of its pair. So if two are not near each
// other, all rows of the chunk are paired by magnitude, and one that no other is near to, or that
// holds a NaN, has zeros for a partner.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/contract_ahead.h"
#include "cpu/contract_tables.h"
#include "cpu/finish.h"
#include "cpu/strassen_kernels.h"
#include "cpu/weights.h"

namespace onnx_fusion::cpu {

class StrassenPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind, if the program is strict, or if the plain product is
  // expected to be faster.
  static std::unique_ptr<StrassenPlan> make(const BoundProgram& bound, size_t stage,
                                            const TensorView* constants, size_t count);
  void run(const RunContext& context) const override;
  bool may_be_cut() const override { return false; }

 private:
  struct Buffers {
    float* sums;             // [pair][sum][k]
    float* products;         // [product][pair][column]
    float *left, *right;     // [row][column], and a row that nobody reads
    float* turned;
    const float** pointers;  // [product][pair]
    const float** rows;      // [row]
    int32_t *upper, *lower;  // [pair]: rows; the lower may be the one that nobody reads
    int32_t* order;          // [row]
    uint8_t* exponents;      // [row]
    char* epilogue;
  };

  StrassenPlan() = default;
  bool pays() const;
  bool choose_sizes();
  bool pack(const TensorView& constant, const OperandTables& tables);
  int64_t pair_near(int64_t rows, const Buffers& buffers) const;
  bool sum_rows(int64_t pairs, int64_t block, const Buffers& buffers) const;
  void point_rows(int64_t pairs, int64_t block, const Buffers& buffers) const;
  void run_chunk(const RunContext& context, int64_t row0, int64_t row1, int64_t panel0,
                 int64_t panel1, const Buffers& buffers) const;
  // What becomes of both halves of a group's columns, for the chunk's first row.
  struct Ends {
    FinishRows halves[2];
    int64_t rows;
  };
  bool find_ends(const RunContext& context, int64_t row0, int64_t column0, int64_t column1,
                 Ends* ends) const;
  void run_block(int64_t pairs, int64_t block, int64_t panel0, int64_t panel1, int64_t last,
                 const Buffers& buffers, const Ends* ends) const;
  void finish_half(const Ends& ends, int64_t pairs, int64_t columns, const Buffers& buffers) const;
  void finish(const RunContext& context, int64_t row0, int64_t rows, int64_t column0,
              int64_t column1, const float* sums, const Buffers& buffers) const;
  int64_t panel_vectors(int64_t panel) const;
  Weights find_weights(int product, int64_t block, int64_t panel) const;
  int64_t block_begin(int64_t block) const {
    return std::min(half_, (half_ * block / blocks_ + 15) / 16 * 16);
  }

  const BoundStage* stage_ = nullptr;
  Axis row_, column_;
  int tensor_ = -1;
  bool transposed_ = false;
  int64_t rows_ = 0, columns_ = 0, half_ = 0;  // half_: of k
  int64_t left_ = 0;                           // columns of the left half, whole vectors
  int lanes_ = 1, vectors_ = 1;
  int64_t width_ = 1, panels_ = 1, tile_rows_ = 1;
  int64_t chunk_ = 1, pairs_ = 1;  // rows at once, and pairs at most
  int64_t group_ = 1, ld_ = 1;     // panels at once
  int64_t blocks_ = 1;             // of half the k
  int64_t sum_step_ = 1;           // floats between two sums of a block
  std::vector<int64_t> outer_;     // per row: where it lies
  std::vector<float> zeros_;
  std::shared_ptr<const PackedWeights> weights_;
  std::unique_ptr<Epilogue> epilogue_;
  Successor successor_;
};

}  // namespace onnx_fusion::cpu
