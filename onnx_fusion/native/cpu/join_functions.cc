// Functions of an element that are several steps and one pass: SiLU, Mish, softplus, what a GELU
// begins with, the powers of a softmax.
#include "cpu/join.h"

namespace onnx_fusion::cpu {
namespace {

bool join_silu(Joining& at, size_t i) {
  Step& mul = at.steps[i];
  if (!at.is_f32_full(mul) || mul.op != Op::op_mul) return false;
  for (int side : {mul.a, mul.b}) {
    Step* sigmoid = at.maker(side);
    const int other = side == mul.a ? mul.b : mul.a;
    if (sigmoid == nullptr || sigmoid->a != other) continue;
    const bool is_mish = sigmoid->pass != nullptr && sigmoid->pass == kernels().tanh_softplus;
    if (!is_mish && (!at.is_f32_full(*sigmoid) || sigmoid->op != Op::op_sigmoid)) continue;
    at.drop(sigmoid);
    mul.pass = is_mish ? kernels().mish : kernels().silu;
    mul.op = Op::op_sigmoid;
    mul.a = mul.b = mul.c = other;
    return true;
  }
  return false;
}

// tanh, erf or sigmoid of a scaled value, plus a number: what a GELU begins with.
bool join_shifted(Joining& at, size_t i) {
  Step& add = at.steps[i];
  if (!at.is_f32_full(add) || add.op != Op::op_add) return false;
  const bool second = at.width(add.b) == Width::scalar;
  if (second == (at.width(add.a) == Width::scalar)) return false;
  Step* const function = at.maker(second ? add.a : add.b);
  if (function == nullptr || !at.is_f32_full(*function)) return false;
  const int which = function->op == Op::op_tanh      ? 0
                    : function->op == Op::op_erf     ? 1
                    : function->op == Op::op_sigmoid ? 2
                                                     : -1;
  Step* const scale = which < 0 ? nullptr : at.maker(function->a);
  if (scale == nullptr || !at.is_f32_full(*scale)) return false;
  const bool divides = scale->op == Op::op_div;
  if (!divides && scale->op != Op::op_mul) return false;
  const bool after = at.width(scale->b) == Width::scalar;
  if (after == (at.width(scale->a) == Width::scalar) || (divides && !after)) return false;
  for (Step* step : {function, scale}) at.drop(step);
  const int shift = second ? add.b : add.a;
  add.pass = kernels().shifted[which][divides];
  add.op = Op::op_erf;  // for its cost
  add.a = after ? scale->a : scale->b;
  add.b = after ? scale->b : scale->a;
  add.c = shift;
  return true;
}

// max(a, 0) + log(1 + exp(-|a|)), as ops/activation.py writes it, and the tanh of that.
bool join_softplus(Joining& at, size_t i) {
  Step& last = at.steps[i];
  if (!at.is_f32_full(last)) return false;
  std::vector<Step*> parts;
  const auto part = [&](int slot, Op op, int uses) -> Step* {
    Step* const step = at.maker(slot, uses);
    if (step == nullptr || !at.is_f32_full(*step) || step->op != op) return nullptr;
    parts.push_back(step);
    return step;
  };
  if (last.op == Op::op_tanh) {
    Step* const inner = at.maker(last.a);
    if (inner == nullptr || inner->pass != kernels().softplus) return false;
    at.drop(inner);
    last.pass = kernels().tanh_softplus;
    last.a = last.b = last.c = inner->a;
    return true;
  }
  if (last.op != Op::op_add) return false;
  const Step* const most = part(last.a, Op::op_max, 1);
  const Step* const tail = most != nullptr ? part(last.b, Op::op_sub, 1) : nullptr;
  const Step* const log = tail != nullptr ? part(tail->a, Op::op_log, 1) : nullptr;
  const Step* const lost = log != nullptr ? part(tail->b, Op::op_div, 1) : nullptr;
  if (lost == nullptr || lost->b != log->a) return false;
  // (u - 1) - e, joined before this was seen
  const Step* const error = at.maker(lost->a);
  if (error == nullptr || error->pass != kernels().chain[kChainSub][kChainSub][1]) return false;
  parts.push_back(const_cast<Step*>(error));
  const Step* const sum = part(log->a, Op::op_add, 3);
  if (sum == nullptr || error->a != sum->out || error->c != sum->a) return false;
  const Step* const exp = part(sum->a, Op::op_exp, 2);
  const Step* const neg = exp != nullptr ? part(exp->a, Op::op_neg, 1) : nullptr;
  const Step* const abs = neg != nullptr ? part(neg->a, Op::op_abs, 1) : nullptr;
  const bool zero = at.width(most->b) == Width::scalar;
  if (abs == nullptr || abs->a != (zero ? most->a : most->b) ||
      !at.is_number(zero ? most->b : most->a, 0.0f) || !at.is_number(sum->b, 1.0f) ||
      !at.is_number(error->b, 1.0f)) {
    return false;
  }
  const int in = abs->a;
  for (Step* step : parts) at.drop(step);
  last.pass = kernels().softplus;
  last.op = Op::op_log;  // for its cost
  last.a = last.b = last.c = in;
  return true;
}

// exp(a - b), also where b is a row.
bool join_exp(Joining& at, size_t i) {
  Step& exp = at.steps[i];
  if (!at.is_f32_full(exp) || exp.op != Op::op_exp) return false;
  Step* sub = at.maker(exp.a);
  if (sub == nullptr || sub->op != Op::op_sub) return false;
  const bool by_row = sub->kind == StepKind::row_pass && sub->ref == 1;
  if (!by_row && (!at.is_f32_full(*sub) || at.width(sub->a) != Width::full)) return false;
  const bool splat = by_row ? !at.program.lanes_inner : at.width(sub->b) == Width::scalar;
  at.drop(sub);
  exp.kind = sub->kind;
  exp.ref = sub->ref;
  exp.pass = kernels().exp_sub[splat];
  exp.a = sub->a;
  exp.b = exp.c = sub->b;
  return true;
}

}  // namespace

bool join_functions(Joining& at, size_t i) {
  return join_shifted(at, i) || join_softplus(at, i) || join_silu(at, i) || join_exp(at, i);
}

}  // namespace onnx_fusion::cpu
