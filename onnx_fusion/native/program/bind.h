// A program bound to shapes: every dim, extent and stride known, every index proved inside its dim.
#pragma once

#include <cstdint>
#include <vector>

#include "machine.h"
#include "program/program.h"

namespace onnx_fusion {

// base + sum of coef[l] * letter l
struct Linear {
  int64_t base = 0;
  int64_t coef[kMaxLetters] = {};
};

struct Interval {
  int64_t lo = 0, hi = 0;  // inclusive
};

struct BoundIndex {
  bool linear = false;  // `form` holds; never for an indirect index
  bool guarded = false;  // may be outside [0, extent): then the load's `else` value
  int value = -1;  // the indirect index's value
  ExprId expr = -1;
  int64_t extent = 0;  // of this logical dim
  int64_t stride = 0;  // in elements
  Linear form;  // the index in letters
};

// A load's or store's index map.
struct BoundMap {
  bool linear = false;  // every index is: the element's address is `address`
  bool guarded = false;  // any index is
  bool indirect = false;
  Linear address;  // in elements from the tensor's start; for indirect maps, of the linear indices
                   // only
  std::vector<BoundIndex> dims;
};

struct BoundCond {
  bool linear = false;  // a - b is `form`
  Linear form;
};

struct BoundTensor {
  DType dtype;
  std::vector<int64_t> shape;  // logical
  std::vector<int64_t> strides;  // of the logical dims, in elements
  std::vector<int64_t> physical;  // what ONNX Runtime sees
  int64_t elements = 0;
};

struct BoundStage {
  const Stage* stage = nullptr;
  LetterSet empty = 0;  // letters of extent 0: what depends on them is neither computed nor stored
  int64_t extents[kMaxLetters] = {};
  std::vector<BoundMap> maps;  // per body line; empty but for load and store
  std::vector<std::vector<BoundCond>> conds;  // per body line; empty but for select
  std::vector<Linear> indices;  // per body line; of `index` if is_linear
  std::vector<uint8_t> is_linear;  // per body line; of `index`
};

struct BoundProgram {
  const Program* program = nullptr;
  std::vector<int64_t> dims;
  std::vector<BoundTensor> tensors;
  std::vector<BoundStage> stages;
  bool band = false;  // a stage is some of its lines, which others read at once
};

// `inputs` are program.inputs views; their data is read only for `as`.
Status bind_program(const Program& program, const TensorView* inputs, BoundProgram* bound);

// An expression's value at one point; bound so that it cannot overflow or divide by zero.
int64_t evaluate(const Program& program, const int64_t* dims, const int64_t* letters, ExprId expr);

// The range over boxes of letters. False if an intermediate result leaves +-2^60 or a divisor is <=
// 0.
bool expr_range(const Program& program, const int64_t* dims, const Interval* letters, ExprId expr,
                Interval* range);

// True if the expression is linear in the letters (over these ranges of them).
bool expr_linear(const Program& program, const int64_t* dims, const Interval* letters, ExprId expr,
                 Linear* form);

}  // namespace onnx_fusion
