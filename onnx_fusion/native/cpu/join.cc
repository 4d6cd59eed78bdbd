// Joining steps of a compiled program: two cheap ones, or the idioms that a kernel has as a whole.
#include "cpu/join.h"

#include <cstring>

namespace onnx_fusion::cpu {

bool Joining::is_number(int slot, float value) const {
  const Slot& s = program.slots[static_cast<size_t>(slot)];
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return s.is_constant && static_cast<uint32_t>(s.constant) == bits;
}

bool Joining::is_f32_full(const Step& step) const {
  const DType f32 = DType::f32;
  const int op = static_cast<int>(step.op);
  if (step.kind != StepKind::pass || step.width != Width::full || op >= kElementwise) return false;
  const Kernels& k = kernels();
  const Pass* row = k.binary[op][compute_type(f32)];
  return step.pass == row[0] || step.pass == row[1] || step.pass == row[2] ||
         step.pass == k.unary[op][compute_type(f32)];
}

Step* Joining::maker(int slot, int times) const {
  const auto found = made.find(slot);
  if (found == made.end() || uses[static_cast<size_t>(slot)] != times) return nullptr;
  return &steps[found->second];
}

namespace {

int chain_op(Op op) {
  switch (op) {
    case Op::op_add: return kChainAdd;
    case Op::op_sub: return kChainSub;
    case Op::op_mul: return kChainMul;
    case Op::op_min: return kChainMin;
    case Op::op_max: return kChainMax;
    default: return -1;
  }
}

// A step as chain operation on `through`, with the other operand.
struct Link {
  int op = -1;
  int through, other;
};

// The step seen from its operand `through` (any full one if -1).
Link link_of(const Joining& at, const Step& step, int through) {
  Link link;
  const int op = at.is_f32_full(step) ? chain_op(step.op) : -1;
  if (op < 0 || (step.a == step.b && through >= 0)) return link;
  const bool first = through >= 0 ? step.a == through : at.width(step.a) == Width::full;
  link.op = first ? op : op == kChainSub ? kChainRsub : op;
  link.through = first ? step.a : step.b;
  link.other = first ? step.b : step.a;
  const Slot& other = at.program.slots[static_cast<size_t>(link.other)];
  const bool number = other.is_constant && (other.constant & 0x7fffffff) <= 0x7f800000;
  if (number && link.op == kChainMin) link.op = kChainAtMost;
  if (number && link.op == kChainMax) link.op = kChainAtLeast;
  return link;
}

void join_pair(Joining& at, size_t i) {
  Step& outer = at.steps[i];
  if (!at.is_f32_full(outer) || chain_op(outer.op) < 0) return;
  for (int side : {outer.a, outer.b}) {
    Step* inner = at.width(side) == Width::full ? at.maker(side) : nullptr;
    if (inner == nullptr) continue;
    const Link second = link_of(at, outer, side);
    const Link first = link_of(at, *inner, -1);
    if (second.op < 0 || first.op < 0) continue;
    const int splats = (at.width(first.other) == Width::scalar ? 1 : 0) +
                       (at.width(second.other) == Width::scalar ? 2 : 0);
    at.drop(inner);
    const bool clips = first.op == kChainAtLeast && second.op == kChainAtMost;
    outer.pass = clips ? kernels().clip : kernels().chain[first.op][second.op][splats];
    outer.op = Op::count;
    outer.ref = first.op * kChainOps + second.op;
    outer.a = first.through;
    outer.b = first.other;
    outer.c = second.other;
    return;
  }
}

void count(const Step& step, std::vector<int>* uses) {
  const int in[3] = {step.a, step.b, step.c};
  for (int i = 0; i < 3; ++i) {
    const bool again = (i > 0 && in[i] == in[0]) || (i > 1 && in[i] == in[1]);
    if (in[i] >= 0 && !again) ++(*uses)[static_cast<size_t>(in[i])];
  }
}

void join(TileProgram* program, const std::vector<int>& uses, std::vector<Step>& steps) {
  Joining at{*program, uses, steps, {}, std::vector<uint8_t>(steps.size(), 0)};
  for (size_t i = 0; i < steps.size(); ++i) {
    if (!join_functions(at, i) && !join_rows(at, i)) join_pair(at, i);
    if (steps[i].out >= 0) at.made[steps[i].out] = i;
  }
  size_t kept = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (!at.gone[i]) steps[kept++] = steps[i];
  }
  steps.resize(kept);
}

}  // namespace

void join_steps(TileProgram* program) {
  std::vector<int> uses(program->slots.size(), 0);
  for (const Segment& segment : program->segments) {
    for (const Step& step : segment.steps) count(step, &uses);
  }
  for (const TileLoad& load : program->loads) {
    for (const TileIndirect& indirect : load.indirects) {
      if (indirect.slot >= 0) ++uses[static_cast<size_t>(indirect.slot)];
    }
  }
  for (Segment& segment : program->segments) join(program, uses, segment.steps);
}

}  // namespace onnx_fusion::cpu
