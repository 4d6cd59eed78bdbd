// What runs one stage of a bound program: pointwise, rows (both here), contraction (contract.h).
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "cpu/scratch.h"
#include "machine.h"
#include "program/bind.h"

namespace onnx_fusion {

// One run of a bound program. tensors[i] is the memory of Program::tensors[i].
struct RunContext {
  const BoundProgram* bound;
  char* const* tensors;
  const Parallel* parallel;
  std::atomic<int>* failed_line;  // a line whose indirect index was out of range, or 0
};

// A plan for one stage at one signature of shapes: immutable, run from any threads at once.
class StagePlan {
 public:
  virtual ~StagePlan() = default;
  virtual void run(const RunContext& context) const = 0;
  // Whether a few lines of the result cost no more, each, than all of them (cpu/band.h).
  virtual bool may_be_cut() const { return true; }
};

enum class StageForm { pointwise, rows, contraction };

// The form of section 8 that a stage has; otherwise false and the reason.
bool classify(const Program& program, size_t stage, StageForm* form, std::string* reason);

std::unique_ptr<StagePlan> plan_pointwise(const BoundProgram& bound, size_t stage);
std::unique_ptr<StagePlan> plan_rows(const BoundProgram& bound, size_t stage);

// Defined with contract.h:
//   std::string contract_refusal(const Program& program, size_t stage);   "" if it runs
//   std::unique_ptr<StagePlan> plan_contraction(const BoundProgram& bound, size_t stage,
//                                               const TensorView* constants, size_t count);
// constants[i].data is set where input i is constant; count is 0 or the number of inputs.

}  // namespace onnx_fusion
