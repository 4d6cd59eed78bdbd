// Recognising an attention by its structure: which letters are batch, rows, keys, depth and
// features.
//
// The scores are a dense matrix, `keys` wide; a row's number is what its address divided by `keys`
// is. Each of the three stages has letters of its own for it, as digits of that number:
//
//   row number = (batch / inner) * rows * inner + row * inner + batch % inner
#pragma once

#include "cpu/contract_axes.h"
#include "cpu/stage.h"

namespace onnx_fusion::cpu {

// The letters of one stage over the score matrix.
struct ScoreLetters {
  size_t stage = 0;
  Axis rows, keys;
  int64_t step[kMaxLetters] = {};  // of a letter in the row's number; 0 if it has no part in it
};

struct AttentionMatch {
  ScoreLetters scores, softmax, product;
  int64_t row_count = 1, inner = 1, batches = 1, keys = 1;

  // scores: the values of the operands, the lines of the dot and of what is stored.
  int query = -1, key = -1;
  Axis depth;
  int dot = -1, score = -1;
  // softmax: lines of the load, of what the softmax is taken of, of its quotient, of what is
  // stored.
  int score_load = -1, exponent = -1, quotient = -1, weight = -1;
  // product: lines of the load and of the operand made from it, the other operand's value and its
  // letters.
  int weight_load = -1, weighing = -1, value = -1;
  Axis features;
};

bool match_attention(const BoundProgram& bound, size_t stage, AttentionMatch* match);

// The positions of a stage's letters in the first row of a batch.
void locate_batch(const BoundStage& stage, const ScoreLetters& letters, const AttentionMatch& match,
                  int64_t batch, int64_t* fixed);

}  // namespace onnx_fusion::cpu
