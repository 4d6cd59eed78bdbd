// A parsed and verified tile program (docs/tile_program.md). Immutable once read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dtype.h"
#include "instructions.h"
#include "status.h"

namespace onnx_fusion {

inline constexpr int kMaxLetters = 16;
inline constexpr int kMaxRank = 16;

using LetterSet = uint16_t;  // bit l: the stage's letter l
using ExprId = int32_t;      // an index into Program::exprs

enum class ExprOp : uint8_t { number, dim, letter, neg, add, sub, mul, div, mod, min, max };

struct ExprNode {
  ExprOp op;
  ExprId a = -1, b = -1;  // operands
  int64_t value = 0;      // the number, or the index of the dim or letter
};

struct Dim {
  std::string name;
  ExprId expr = -1;  // of a `dim` line; -1 if an input binds it
};

enum class TensorKind : uint8_t { input, temp, output };

struct Tensor {
  std::string name;
  TensorKind kind;
  DType dtype;
  std::vector<ExprId> shape;   // logical
  std::vector<int> binds;      // per entry: the dim this entry binds, or -1
  std::vector<uint8_t> order;  // order[place in memory] = logical dim; identity for `row`
  std::vector<int> contents;  // the dims that `as` binds, or compares with what is bound already
  size_t rank() const { return shape.size(); }
};

struct Index {
  ExprId expr = -1;  // -1: indirect
  int value = -1;  // the value that is the index
};

enum class CondOp : uint8_t { lt, le, eq };

struct Cond {
  ExprId a, b;
  CondOp op;
};

// One line of a stage's body. `dtype` is the result's (for a store, the value's).
struct Instruction {
  Op op;
  DType dtype;
  LetterSet letters = 0;  // L of the result; for a store, of its map
  LetterSet over = 0;  // reductions and dot
  bool has_else = false;
  int args[3] = {-1, -1, -1};  // values; a store's value is args[0]
  int arg_count = 0;
  int tensor = -1;
  ExprId expr = -1;  // index
  uint64_t literal = 0;  // const, else: the bits in `dtype`
  std::vector<Index> map;  // load, store
  std::vector<Cond> conds;
  int line = 0;
};

struct Letter {
  std::string name;
  ExprId extent;
};

struct Stage {
  std::vector<Letter> letters;
  std::vector<Instruction> body;  // in the text's order, stores included
  std::vector<int> values;  // values[k]: where in `body` %k is defined
  int line = 0;
};

struct Program {
  bool strict = false;
  std::vector<ExprNode> exprs;
  std::vector<Dim> dims;  // in the order defined
  std::vector<Tensor> tensors;  // inputs, temps, outputs
  size_t inputs = 0, temps = 0, outputs = 0;
  std::vector<Stage> stages;

  const Tensor& output(size_t i) const { return tensors[inputs + temps + i]; }
};

// Reads and verifies a text, or throws ProgramError with "line N: what is wrong".
Program parse(std::string_view text);

// What every instruction's name is.
const char* op_name(Op op);
int op_arity(Op op);  // elementwise instructions and where
bool op_accepts(Op op, DType dtype);  // elementwise: does it exist for operands of this type
bool op_gives_bool(Op op);
inline bool op_is_reduction(Op op) { return op >= Op::op_reduce_sum && op <= Op::op_reduce_prod; }

// The letters an expression uses.
LetterSet expr_letters(const Program& program, ExprId expr);

}  // namespace onnx_fusion
