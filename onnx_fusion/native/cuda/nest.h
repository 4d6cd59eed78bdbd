// A stage, or some of its stores, at its shapes: what is computed, over which letters, from where.
#pragma once

#include <vector>

#include "program/bind.h"

namespace onnx_fusion::cuda {

struct Guard {  // holds where 0 <= form < extent
  Linear form;
  int64_t extent;
};

struct Computed {  // an index that is not linear in the letters
  ExprId expr;
  int64_t stride, extent;
  bool guarded;
};

struct Indirect {
  int line;  // whose value is the index
  int64_t stride, extent;
};

// Where a load reads or a store writes.
struct Access {
  int tensor = -1;
  bool fixed = false;  // its numbers are the same for all shapes
  Linear address;      // of the linear indices, in elements
  std::vector<Guard> guards;
  std::vector<Computed> computed;
  std::vector<Indirect> indirect;
  bool plain() const { return guards.empty() && computed.empty() && indirect.empty(); }
};

struct Condition {
  bool linear;
  Linear form;  // compared to 0
  ExprId a, b;
  CondOp op;
};

class Nest {
 public:
  // `stores`: body lines that store; none of their letters is empty. Letters that run through all
  // memory as one become one, unless they are to stay `apart`.
  Nest(const BoundProgram& bound, size_t stage, std::vector<int> stores, bool apart = false);

  const BoundProgram& bound;
  const BoundStage& stage;
  std::vector<int> stores;
  int64_t extents[kMaxLetters];
  bool fixed[kMaxLetters];  // is the extent the same for all shapes
  LetterSet active = 0;     // letters with more than one position, after merging
  std::vector<uint8_t> live;
  std::vector<LetterSet> letters;  // per line: the active letters its value depends on
  std::vector<LetterSet> over;     // per line: the active letters it reduces
  std::vector<int> level;          // per line: how many reductions it comes after
  std::vector<Access> access;      // per line: load, store
  std::vector<std::vector<Condition>> conditions;  // per line: select

  const Instruction& at(int line) const { return stage.stage->body[static_cast<size_t>(line)]; }
  DType dtype(int line) const { return at(line).dtype; }
  int source(int value) const;           // the line a value comes from, past decided selects
  bool reduces(int line) const { return is_live(line) && is_reduction(line); }
  bool is_reduction(int line) const {
    return op_is_reduction(at(line).op) || at(line).op == Op::op_dot;
  }
  bool nothing(int line) const;          // a reduction over a letter without positions
  bool is_live(int line) const { return live[static_cast<size_t>(line)] != 0; }
  std::vector<int> needs(int line) const;  // the lines it reads
  size_t lines() const { return stage.stage->body.size(); }
  int64_t points(LetterSet set) const;
  bool all_fixed(LetterSet set) const;
  // Letters, slowest first, by how far apart their positions lie in this access.
  std::vector<int> order(LetterSet set, const Access& by) const;
  bool wide() const;  // do addresses and counts need 64 bits

 private:
  bool decide(const Instruction& select, int* taken) const;
  void resolve();
  void mark();
  void analyse(int line);
  void locate(int line, Access* out);
  void merge();
  bool mergeable(int a, int b) const;
  void join(int a, int b);
  template <class F>
  void each_form(F visit);
  template <class F>
  void each_form(F visit) const;
  bool is_fixed(ExprId expr) const;

  Interval box_[kMaxLetters];
  std::vector<int> taken_;
  LetterSet apart_ = 0;  // letters of what is not linear
};

// The body lines that store something at these shapes, in groups that one loop nest can run.
std::vector<std::vector<int>> group_stores(const BoundProgram& bound, size_t stage);

}  // namespace onnx_fusion::cuda
