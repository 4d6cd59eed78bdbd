#include "cpu/contract_phase.h"

#include <algorithm>
#include <vector>

#include "cpu/contract.h"
#include "cpu/contract_axes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostPhases = 16;

struct Phase {
  std::unique_ptr<Stage> text;
  std::unique_ptr<BoundProgram> bound;
  std::unique_ptr<StagePlan> plan;
};

class PhasePlan final : public StagePlan {
 public:
  explicit PhasePlan(std::vector<Phase> phases) : phases_(std::move(phases)) {}
  void run(const RunContext& context) const override {
    for (const Phase& phase : phases_) {
      const RunContext own{phase.bound.get(), context.tensors, context.parallel,
                           context.failed_line};
      phase.plan->run(own);
    }
  }

 private:
  std::vector<Phase> phases_;
};

Interval range_of(const BoundStage& stage, const Linear& form) {
  Interval range{form.base, form.base};
  for (size_t l = 0; l < stage.stage->letters.size(); ++l) {
    const int64_t last = form.coef[l] * (stage.extents[l] - 1);
    (last < 0 ? range.lo : range.hi) += last;
  }
  return range;
}

bool is_linear(const BoundStage& stage) {
  const std::vector<Instruction>& body = stage.stage->body;
  for (size_t i = 0; i < body.size(); ++i) {
    const Op op = body[i].op;
    if (op == Op::op_load || op == Op::op_store) {
      if (!stage.maps[i].linear || stage.maps[i].indirect) return false;
    } else if (op == Op::op_index) {
      return false;
    }
    for (const BoundCond& cond : stage.conds[i]) {
      if (!cond.linear) return false;
    }
  }
  return true;
}

void fix(Linear* form, int letter, int64_t position) {
  form->base += form->coef[letter] * position;
  form->coef[letter] = 0;
}

void fix(BoundStage* stage, int letter, int64_t position) {
  for (BoundMap& map : stage->maps) {
    fix(&map.address, letter, position);
    for (BoundIndex& dim : map.dims) fix(&dim.form, letter, position);
  }
  for (std::vector<BoundCond>& conds : stage->conds) {
    for (BoundCond& cond : conds) fix(&cond.form, letter, position);
  }
  stage->extents[letter] = 1;
}

// Cuts the letters of the sum to where the conditions hold, if they hold from the beginning on.
bool cut_sum(BoundStage* stage, const Instruction& select, const std::vector<BoundCond>& conds,
             LetterSet over) {
  for (size_t c = 0; c < conds.size(); ++c) {
    if (select.conds[c].op != CondOp::lt) return false;
    const Linear& form = conds[c].form;
    int letter = -1;
    for (size_t l = 0; l < stage->stage->letters.size(); ++l) {
      if (form.coef[l] == 0 || stage->extents[l] == 1) continue;
      if (letter >= 0 || !(over >> l & 1) || form.coef[l] < 0) return false;
      letter = static_cast<int>(l);
    }
    if (form.base >= 0) return false;
    if (letter < 0) continue;
    const int64_t coef = form.coef[letter];
    stage->extents[letter] = std::min(stage->extents[letter], (-form.base + coef - 1) / coef);
  }
  return true;
}

// The operands are loads, and guarded only where they may be outside.
bool simplify(Stage* text, BoundStage* stage) {
  Instruction& dot = text->body[static_cast<size_t>(find_dot(*text))];
  for (int i = 0; i < 2; ++i) {
    const size_t line = static_cast<size_t>(text->values[static_cast<size_t>(dot.args[i])]);
    const Instruction& from = text->body[line];
    if (from.op == Op::op_load) continue;
    if (from.op != Op::op_select || !cut_sum(stage, from, stage->conds[line], dot.over)) {
      return false;
    }
    const Instruction& chosen =
        text->body[static_cast<size_t>(text->values[static_cast<size_t>(from.args[0])])];
    if (chosen.op != Op::op_load) return false;
    dot.args[i] = from.args[0];
  }
  for (size_t i = 0; i < stage->maps.size(); ++i) {
    BoundMap& map = stage->maps[i];
    if (text->body[i].op != Op::op_load || !map.guarded) continue;
    map.guarded = false;
    for (BoundIndex& dim : map.dims) {
      const Interval range = range_of(*stage, dim.form);
      dim.guarded = dim.guarded && (range.lo < 0 || range.hi >= dim.extent);
      map.guarded = map.guarded || dim.guarded;
    }
  }
  return true;
}

}  // namespace

std::unique_ptr<StagePlan> plan_phases(const BoundProgram& bound, size_t stage,
                                       const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  const Instruction& dot = s.stage->body[static_cast<size_t>(find_dot(*s.stage))];
  LetterSet both = static_cast<LetterSet>(~dot.over), asked = 0;
  for (int i = 0; i < 2; ++i) {
    const size_t line = static_cast<size_t>(s.stage->values[static_cast<size_t>(dot.args[i])]);
    const Instruction& from = s.stage->body[line];
    both &= from.letters;
    const auto ask = [&](const Linear& form) {
      for (size_t l = 0; l < s.stage->letters.size(); ++l) {
        if (form.coef[l] != 0) asked |= static_cast<LetterSet>(1u << l);
      }
    };
    for (const BoundCond& cond : s.conds[line]) ask(cond.form);
    for (const BoundIndex& dim : s.maps[line].dims) {
      if (dim.guarded) ask(dim.form);
    }
  }
  std::vector<int> letters;
  int64_t phases = 1;
  for (size_t l = 0; l < s.stage->letters.size(); ++l) {
    if (!((both & asked) >> l & 1) || s.extents[l] == 1) continue;
    letters.push_back(static_cast<int>(l));
    phases *= s.extents[l];
    if (phases > kMostPhases) return nullptr;
  }
  if (letters.empty() || !is_linear(s)) return nullptr;
  std::vector<Phase> made;
  for (int64_t p = 0; p < phases; ++p) {
    Phase phase;
    phase.text = std::make_unique<Stage>(*s.stage);
    phase.bound = std::make_unique<BoundProgram>(bound);
    BoundStage& own = phase.bound->stages[stage];
    own.stage = phase.text.get();
    int64_t rest = p;
    for (const int letter : letters) {
      fix(&own, letter, rest % s.extents[letter]);
      rest /= s.extents[letter];
    }
    if (!simplify(phase.text.get(), &own)) return nullptr;
    phase.plan = plan_contraction(*phase.bound, stage, constants, count);
    made.push_back(std::move(phase));
  }
  return std::make_unique<PhasePlan>(std::move(made));
}

}  // namespace onnx_fusion::cpu
