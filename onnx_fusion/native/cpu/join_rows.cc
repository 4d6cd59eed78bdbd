// The idioms of rows that kernels have as a whole: sums of squares, softmax, norms.
#include <algorithm>

#include "cpu/join.h"

namespace onnx_fusion::cpu {
namespace {

// A tile is whole rows, or parts of one.
bool has_rows(const Joining& at) {
  return at.program.full_axes.size() != at.program.row_axes.size() && !at.program.lanes_inner;
}

bool is_exact(const Joining& at) { return at.program.bound->program->strict; }

// f32: full `a` op `b`, which is one value for each row. For mul the operands may be swapped.
bool by_row(const Joining& at, const Step& step, Op op, int* in, int* value) {
  if (step.op != op || !has_rows(at) || step.width != Width::full) return false;
  const Pass* const passes = kernels().binary[static_cast<int>(op)][0];
  if (step.kind == StepKind::row_pass) {
    if (step.pass != passes[kSplatFirst] && step.pass != passes[kSplatSecond]) return false;
    if (step.ref == 0 && op != Op::op_mul) return false;
    *in = step.ref == 0 ? step.b : step.a;
    *value = step.ref == 0 ? step.a : step.b;
    return true;
  }
  // One value for the tile is one for each row only where the tile is one.
  if (step.kind != StepKind::pass || step.pass != passes[kSplatSecond] ||
      !at.program.row_axes.empty()) {
    return false;
  }
  *in = step.a;
  *value = step.b;
  return true;
}

bool reduces(const Joining& at, const Step* step, Op op) {
  const int which = static_cast<int>(op) - static_cast<int>(Op::op_reduce_sum);
  return step != nullptr && step->kind == StepKind::reduce &&
         step->reduce == &kernels().reduce[which][0] && has_rows(at);
}

void set_idiom(Step* step, Idiom idiom, int a, int b, int c, int d, int e = -1) {
  step->kind = StepKind::idiom;
  step->op = Op::count;
  step->idiom = idiom;
  step->a = a;
  step->b = b < 0 ? a : b;
  step->c = c < 0 ? a : c;
  step->d = d < 0 ? a : d;
  step->e = e < 0 ? a : e;
}

// a - sum(a) / count, where its squares are summed too.
bool join_center(Joining& at, size_t i) {
  Step& squares = at.steps[i];
  if (squares.kind != StepKind::reduce || squares.reduce != &kernels().squares) return false;
  const auto found = at.made.find(squares.a);
  if (found == at.made.end()) return false;
  Step& sub = at.steps[found->second];
  int in, mean;
  if (!by_row(at, sub, Op::op_sub, &in, &mean)) return false;
  Step* const div = at.maker(mean);
  if (div == nullptr || div->kind != StepKind::pass || div->op != Op::op_div ||
      !at.program.slots[static_cast<size_t>(div->b)].is_constant) {
    return false;
  }
  Step* const sum = at.maker(div->a);
  if (!reduces(at, sum, Op::op_reduce_sum) || sum->a != in) return false;
  // Nothing may want the centred values before their squares are summed.
  for (size_t k = found->second + 1; k < i; ++k) {
    const Step& between = at.steps[k];
    if (at.gone[k]) continue;
    for (int slot : {between.a, between.b, between.c, between.d, between.e}) {
      if (slot == sub.out) return false;
    }
  }
  for (Step* step : {&sub, div, sum}) at.drop(step);
  const int centred = sub.out;
  set_idiom(&squares, kernels().center, in, squares.out, div->b, -1);
  squares.out = centred;
  squares.width = Width::full;
  return true;
}

// The sum of squares of rows.
bool join_squares(Joining& at, size_t i) {
  Step& sum = at.steps[i];
  const Kernels& k = kernels();
  if (sum.kind != StepKind::reduce || sum.reduce != &k.reduce[0][0] || at.program.lanes_inner) {
    return false;
  }
  Step* mul = at.maker(sum.a);
  if (mul == nullptr || !at.is_f32_full(*mul) || mul->op != Op::op_mul || mul->a != mul->b) {
    return false;
  }
  at.drop(mul);
  sum.reduce = &k.squares;
  sum.a = mul->a;
  join_center(at, i);
  return true;
}

// exp(a - max(a)) over its sum.
bool join_softmax(Joining& at, size_t i) {
  int powers, total;
  if (!by_row(at, at.steps[i], Op::op_div, &powers, &total)) return false;
  Step* const sum = at.maker(total);
  Step* const exp = at.maker(powers, 2);
  if (!reduces(at, sum, Op::op_reduce_sum) || sum->a != powers || exp == nullptr) return false;
  const bool splat = exp->pass != nullptr && exp->pass == kernels().exp_sub[1];
  if (!splat || (exp->kind != StepKind::row_pass && exp->kind != StepKind::pass)) return false;
  Step* const most = at.maker(exp->b);
  if (!reduces(at, most, Op::op_reduce_max) || most->a != exp->a) return false;
  for (Step* step : {sum, exp, most}) at.drop(step);
  set_idiom(&at.steps[i], kernels().softmax[is_exact(at)], exp->a, -1, -1, -1);
  return true;
}

// (a - max(a)) - log(sum(exp(a - max(a)))).
bool join_log_softmax(Joining& at, size_t i) {
  int centred, lost, in, top;
  if (!by_row(at, at.steps[i], Op::op_sub, &centred, &lost)) return false;
  Step* const log = at.maker(lost);
  Step* const sub = at.maker(centred, 2);
  if (log == nullptr || sub == nullptr || log->kind != StepKind::pass || log->op != Op::op_log ||
      !by_row(at, *sub, Op::op_sub, &in, &top)) {
    return false;
  }
  Step* const sum = at.maker(log->a);
  if (!reduces(at, sum, Op::op_reduce_sum)) return false;
  Step* const exp = at.maker(sum->a);
  Step* const most = at.maker(top);
  if (exp == nullptr || !at.is_f32_full(*exp) || exp->op != Op::op_exp || exp->a != centred ||
      !reduces(at, most, Op::op_reduce_max) || most->a != in) {
    return false;
  }
  for (Step* step : {log, sub, sum, exp, most}) at.drop(step);
  set_idiom(&at.steps[i], kernels().log_softmax, in, -1, -1, -1);
  return true;
}

// What a full slot is loaded from is one row for all of the tile.
bool repeats(const Joining& at, int slot) {
  const auto found = at.made.find(slot);
  if (found == at.made.end() || at.steps[found->second].kind != StepKind::load) return false;
  const TileLoad& load = at.program.loads[static_cast<size_t>(at.steps[found->second].ref)];
  if (load.tensor < 0 || !load.guards.empty() || !load.indirects.empty() || !load.exprs.empty()) {
    return false;
  }
  const std::vector<int>& rows = at.program.row_axes;
  return std::all_of(rows.begin(), rows.end(), [&](int a) { return load.address.coef[a] == 0; });
}

// The slot of the means where `in` is values centred for nothing else, which then are not stored:
// `in` becomes what they are computed from. Else -1.
int centre(Joining& at, int* in) {
  Step* const center = at.maker(*in, 2);  // their squares, and this
  if (center == nullptr || center->kind != StepKind::idiom || center->idiom != kernels().center) {
    return -1;
  }
  const int squares = center->b, from = center->a, count = center->c;
  const int mean = *in;
  Slot& slot = at.program.slots[static_cast<size_t>(mean)];
  slot.width = at.width(squares);
  set_idiom(center, kernels().moments, from, mean, count, -1);
  center->out = squares;
  center->width = at.width(squares);
  *in = from;
  return mean;
}

// The idiom with a bias for one that scales without.
bool with_bias(const Step& step, bool once, Idiom* idiom) {
  if (step.kind != StepKind::idiom) return false;
  const auto& scale = kernels().scale;
  for (int centred = 0; centred < 2; ++centred) {
    if (once && step.idiom == kernels().norm[centred][0]) {
      *idiom = kernels().norm[centred][1];
      return true;
    }
    for (int how = 0; how < kScalings; ++how) {
      for (int repeated = 0; repeated < 2; ++repeated) {
        if (step.idiom != scale[centred][how][0][repeated]) continue;
        *idiom = scale[centred][how][1][repeated && once];
        return true;
      }
    }
  }
  return false;
}

// A row, less its mean or as it is, over the root of its mean square and a number, times one row
// for all: those sums and the result are one kernel.
void join_norm(Joining& at, Step* scaled) {
  const auto& scale = kernels().scale;
  const bool centred = scaled->idiom == scale[1][kScalesAbout][0][1];
  if (!centred && scaled->idiom != scale[0][kScalesAbout][0][1]) return;
  Step* const root = at.maker(scaled->b);
  if (root == nullptr || root->kind != StepKind::pass || root->op != Op::op_sqrt) return;
  Step* const add = at.maker(root->a);
  if (add == nullptr || add->kind != StepKind::pass || add->op != Op::op_add) return;
  const auto is_constant = [&](int slot) {
    return at.program.slots[static_cast<size_t>(slot)].is_constant;
  };
  const bool second = is_constant(add->b);
  Step* const div = at.maker(second ? add->a : add->b);
  const int epsilon = second ? add->b : add->a;
  if (div == nullptr || div->kind != StepKind::pass || div->op != Op::op_div ||
      !is_constant(div->b) || !is_constant(epsilon)) {
    return;
  }
  // Moments are known by the slot of the centred values, which are their means now.
  Step* const sums = centred ? at.maker(scaled->e, 2) : at.maker(div->a);
  if (sums == nullptr || sums->a != scaled->a || sums->out != div->a ||
      at.uses[static_cast<size_t>(div->a)] != 1) {
    return;
  }
  const bool sums_squares =
      centred
          ? sums->kind == StepKind::idiom && sums->idiom == kernels().moments && sums->c == div->b
          : sums->kind == StepKind::reduce && sums->reduce == &kernels().squares;
  if (!sums_squares) return;
  const int count = div->b;
  for (Step* step : {root, add, div, sums}) at.drop(step);
  set_idiom(scaled, kernels().norm[centred][0], scaled->a, count, scaled->c, -1, epsilon);
}

// A row times or over its value, then times and plus what is full.
bool join_scale(Joining& at, size_t i) {
  Step& outer = at.steps[i];
  if (!has_rows(at) || !at.is_f32_full(outer)) return false;
  if (outer.op != Op::op_mul && outer.op != Op::op_add) return false;
  for (int side : {outer.a, outer.b}) {
    const int other = side == outer.a ? outer.b : outer.a;
    Step* const inner = at.maker(side);
    if (inner == nullptr || at.width(other) != Width::full || other == side) continue;
    const bool once = repeats(at, other);
    int in, value;
    const bool over = by_row(at, *inner, Op::op_div, &in, &value);
    if (outer.op == Op::op_mul && (over || by_row(at, *inner, Op::op_mul, &in, &value))) {
      const int how = !over ? kScalesTimes : is_exact(at) ? kScalesOver : kScalesAbout;
      const int mean = centre(at, &in);
      set_idiom(&outer, kernels().scale[mean >= 0][how][0][once], in, value, other, -1, mean);
      at.drop(inner);
      join_norm(at, &outer);
    } else if (Idiom idiom = nullptr; outer.op == Op::op_add && with_bias(*inner, once, &idiom)) {
      set_idiom(&outer, idiom, inner->a, inner->b, inner->c, other, inner->e);
    } else {
      continue;
    }
    at.drop(inner);
    return true;
  }
  return false;
}

}  // namespace

bool join_rows(Joining& at, size_t i) {
  return join_squares(at, i) || join_softmax(at, i) || join_log_softmax(at, i) || join_scale(at, i);
}

}  // namespace onnx_fusion::cpu
