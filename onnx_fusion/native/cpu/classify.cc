// The forms of section 8.
#include "cpu/stage.h"

namespace onnx_fusion {
namespace {

std::string where(const Instruction& line) { return "line " + std::to_string(line.line) + ": "; }

}  // namespace

bool classify(const Program& program, size_t index, StageForm* form, std::string* reason) {
  const Stage& stage = program.stages[index];
  const Instruction* dot = nullptr;
  LetterSet reduced = 0;
  bool reductions = false;
  for (const Instruction& line : stage.body) {
    if (line.op == Op::op_dot) {
      if (dot != nullptr) {
        *reason = where(line) + "a stage runs one dot, this is its second";
        return false;
      }
      dot = &line;
    }
    if (!op_is_reduction(line.op)) continue;
    if (reductions && line.over != reduced) {
      *reason = where(line) + "the reductions of a stage must name the same letters";
      return false;
    }
    reductions = true;
    reduced = line.over;
  }
  if (dot != nullptr && reductions) {
    *reason = where(*dot) + "a dot and a reduction in one stage; split the stage";
    return false;
  }
  if (dot != nullptr) {
    // What follows the dot is computed over the letters of its result.
    std::vector<uint8_t> after(stage.body.size(), 0);
    for (size_t i = 0; i < stage.body.size(); ++i) {
      const Instruction& line = stage.body[i];
      after[i] = &line == dot;
      const auto from = [&](int value) {
        after[i] |= after[static_cast<size_t>(stage.values[static_cast<size_t>(value)])];
      };
      for (int k = 0; k < line.arg_count; ++k) from(line.args[k]);
      for (const Index& at : line.map) {
        if (at.value >= 0) from(at.value);
      }
      if (line.op == Op::op_store && !after[i]) {
        *reason = where(line) + "a contraction stage stores only what follows its dot";
        return false;
      }
      if (after[i] && &line != dot && (line.letters & ~dot->letters)) {
        *reason = where(line) + "a value after the dot has letters that the dot's result lacks";
        return false;
      }
    }
  }
  *form = dot != nullptr ? StageForm::contraction
          : reductions   ? StageForm::rows
                         : StageForm::pointwise;
  return true;
}

}  // namespace onnx_fusion
