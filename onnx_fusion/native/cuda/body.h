// Prints what the lines of a nest compute, as C++ statements on the letters of one point.
#pragma once

#include <string>
#include <vector>

#include "cuda/nest.h"
#include "cuda/text.h"

namespace onnx_fusion::cuda {

// The threads that share a reduction: each takes every `threads`-th position.
struct Team {
  int threads = 1;
  std::string rank = "0";
  // The call that combines one value of each thread, up to the value: "block_$(" -> "block_sum(v".
  std::string before, after;
  std::string end;  // of the positions, where `rank` does not begin with the first; "": all

  // That call, for a reduction's values.
  std::string fold(const Instruction& reduction, const std::string& value) const;
};

class Body {
 public:
  Body(const Nest& nest, Text& text);

  const Nest& nest;
  Text& text;
  std::string letter[kMaxLetters];  // an expression for each letter; "0" where it has one position
  // Several neighbouring positions of one letter at once: letter[lane_letter] is the first.
  int lane_letter = -1, lanes = 1;
  bool memory_aligned = true;  // do inputs and outputs start at multiples of 16 bytes

  // Prints a line and what it needs, unless that is printed already. Reductions become loops.
  void need(int line);
  void store(int line);
  // The name of a line's value, for one lane.
  std::string name(int line, int lane = 0) const;
  // The value is there under this name (with lanes: name_0, name_1, ...).
  void give(int line, const std::string& name, bool with_lanes = false);
  bool has(int line) const { return !names_[static_cast<size_t>(line)].empty(); }
  bool by_lane(int line) const;

  // What is printed inside a block is forgotten at its end.
  void enter(const std::string& head);
  void leave();

  // Prints what `line` needs and what does not depend on `inner` letters, so before a loop over
  // them.
  void hoist(int line, LetterSet inner);
  // Reductions over the same letters, in one loop. A lane letter may be one of them.
  void reduce(const std::vector<int>& lines, const Team& team);
  // Reads these loads once, into registers, for all later loops of the team over the letters. Not
  // all may be possible; none is if a thread would hold too much.
  void keep_rows(const std::vector<int>& loads, LetterSet over, const Team& team);
  // Loops over letters, for the threads of a team; returns how many blocks were opened.
  int loop(LetterSet over, const Team& team);

  // Names for the letters of a flat position, the last one fastest.
  void decompose(const std::string& flat, const std::vector<int>& letters, int fastest_step = 1);
  bool aligned(const Access& access) const;  // is a run of `lanes` elements one of vectors
  std::string linear(const Linear& form, bool fixed, int lane = 0) const;
  std::string offset(const Access& access, int lane);
  std::string condition(const Access& access, int lane);  // "" if always inside

 private:
  void print(int line);
  void print_load(int line);
  void print_select(int line);
  std::string index_value(int line, int lane);
  std::string expression(ExprId expr, int lane, bool narrow);
  bool narrow(ExprId expr) const;
  std::string at(int l, int lane) const;
  void define(int line, int lane, const std::string& value);
  bool static_program() const { return nest.bound.program->dims.empty(); }

  int turns_ = 0;  // of a thread of the team over a row, where rows are kept
  std::vector<std::string> kept_;  // per line: the array that holds a load's row, or ""
  std::vector<std::string> names_;
  std::vector<uint8_t> with_lanes_;
  std::vector<int> printed_;
  std::vector<size_t> marks_;
};

// Makes a letter the lane letter, with as many lanes as let most accesses along it be vectors.
int choose_lanes(Body& body, int letter);

const char* fold_name(Op op);  // sum, max, min, prod
const char* fold_functor(Op op);  // of two values
std::string nothing_value(const Instruction& reduction);
// An elementwise instruction's expression for these operands.
std::string express(Op op, const std::vector<std::string>& operands);
std::string convert(DType from, DType to, const std::string& value);

}  // namespace onnx_fusion::cuda
