// Joining steps of a compiled program: two cheap ones, or the idioms that a kernel has as a whole.
#include <algorithm>
#include <cstring>
#include <map>

#include "cpu/compile.h"

namespace onnx_fusion::cpu {
namespace {

int chain_op(Op op) {
  switch (op) {
    case Op::op_add:
      return kChainAdd;
    case Op::op_sub:
      return kChainSub;
    case Op::op_mul:
      return kChainMul;
    case Op::op_min:
      return kChainMin;
    case Op::op_max:
      return kChainMax;
    default:
      return -1;
  }
}

// A step as chain operation on `through`, with the other operand.
struct Link {
  int op = -1;
  int through, other;
};

class Joiner {
 public:
  explicit Joiner(TileProgram* program) : program_(*program), uses_(program->slots.size(), 0) {}

  void run() {
    for (const Segment& segment : program_.segments) {
      for (const Step& step : segment.steps) count(step);
    }
    for (const TileLoad& load : program_.loads) {
      for (const TileIndirect& indirect : load.indirects) {
        if (indirect.slot >= 0) ++uses_[static_cast<size_t>(indirect.slot)];
      }
    }
    for (Segment& segment : program_.segments) join(segment.steps);
  }

 private:
  void count(const Step& step) {
    const int in[3] = {step.a, step.b, step.c};
    for (int i = 0; i < 3; ++i) {
      const bool again = (i > 0 && in[i] == in[0]) || (i > 1 && in[i] == in[1]);
      if (in[i] >= 0 && !again) ++uses_[static_cast<size_t>(in[i])];
    }
  }

  bool is_f32_full(const Step& step) const {
    const DType f32 = DType::f32;
    const int op = static_cast<int>(step.op);
    if (step.kind != StepKind::pass || step.width != Width::full || op >= kElementwise) return false;
    const Kernels& k = kernels();
    const Pass* row = k.binary[op][compute_type(f32)];
    return step.pass == row[0] || step.pass == row[1] || step.pass == row[2] ||
           step.pass == k.unary[op][compute_type(f32)];
  }

  Width width(int slot) const { return program_.slots[static_cast<size_t>(slot)].width; }

  // The step seen from its operand `through` (any full one if -1).
  Link link(const Step& step, int through) const {
    Link link;
    const int op = is_f32_full(step) ? chain_op(step.op) : -1;
    if (op < 0 || (step.a == step.b && through >= 0)) return link;
    const bool first = through >= 0 ? step.a == through : width(step.a) == Width::full;
    link.op = first ? op : op == kChainSub ? kChainRsub : op;
    link.through = first ? step.a : step.b;
    link.other = first ? step.b : step.a;
    const Slot& other = program_.slots[static_cast<size_t>(link.other)];
    const bool number = other.is_constant && (other.constant & 0x7fffffff) <= 0x7f800000;
    if (number && link.op == kChainMin) link.op = kChainAtMost;
    if (number && link.op == kChainMax) link.op = kChainAtLeast;
    return link;
  }

  void join(std::vector<Step>& steps) {
    std::map<int, size_t> made;  // slot: the step that makes it
    std::vector<uint8_t> gone(steps.size(), 0);
    for (size_t i = 0; i < steps.size(); ++i) {
      Step& step = steps[i];
      if (!join_shifted(steps, made, &gone, i) && !join_softplus(steps, made, &gone, i) &&
          !join_silu(steps, made, &gone, i) && !join_exp(steps, made, &gone, i) &&
          !join_squares(steps, made, &gone, i) && !join_rows(steps, made, &gone, i)) {
        join_pair(steps, made, &gone, i);
      }
      if (step.out >= 0) made[step.out] = i;
    }
    size_t kept = 0;
    for (size_t i = 0; i < steps.size(); ++i) {
      if (!gone[i]) steps[kept++] = steps[i];
    }
    steps.resize(kept);
  }

  // The step that makes a slot used so many times, or null.
  Step* maker(std::vector<Step>& steps, const std::map<int, size_t>& made, int slot,
              int uses = 1) const {
    const auto found = made.find(slot);
    if (found == made.end() || uses_[static_cast<size_t>(slot)] != uses) return nullptr;
    return &steps[found->second];
  }

  bool join_silu(std::vector<Step>& steps, const std::map<int, size_t>& made,
                 std::vector<uint8_t>* gone, size_t i) {
    Step& mul = steps[i];
    if (!is_f32_full(mul) || mul.op != Op::op_mul) return false;
    for (int side : {mul.a, mul.b}) {
      Step* sigmoid = maker(steps, made, side);
      const int other = side == mul.a ? mul.b : mul.a;
      if (sigmoid == nullptr || sigmoid->a != other) continue;
      const bool is_mish = sigmoid->pass != nullptr && sigmoid->pass == kernels().tanh_softplus;
      if (!is_mish && (!is_f32_full(*sigmoid) || sigmoid->op != Op::op_sigmoid)) continue;
      (*gone)[static_cast<size_t>(sigmoid - steps.data())] = 1;
      mul.pass = is_mish ? kernels().mish : kernels().silu;
      mul.op = Op::op_sigmoid;
      mul.a = mul.b = mul.c = other;
      return true;
    }
    return false;
  }

  bool is_number(int slot, float value) const {
    const Slot& s = program_.slots[static_cast<size_t>(slot)];
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return s.is_constant && static_cast<uint32_t>(s.constant) == bits;
  }

  // tanh, erf or sigmoid of a scaled value, plus a number: what a GELU begins with.
  bool join_shifted(std::vector<Step>& steps, const std::map<int, size_t>& made,
                    std::vector<uint8_t>* gone, size_t i) {
    Step& add = steps[i];
    if (!is_f32_full(add) || add.op != Op::op_add) return false;
    const bool second = width(add.b) == Width::scalar;
    if (second == (width(add.a) == Width::scalar)) return false;
    Step* const function = maker(steps, made, second ? add.a : add.b);
    if (function == nullptr || !is_f32_full(*function)) return false;
    const int which = function->op == Op::op_tanh      ? 0
                      : function->op == Op::op_erf     ? 1
                      : function->op == Op::op_sigmoid ? 2
                                                       : -1;
    Step* const scale = which < 0 ? nullptr : maker(steps, made, function->a);
    if (scale == nullptr || !is_f32_full(*scale)) return false;
    const bool divides = scale->op == Op::op_div;
    if (!divides && scale->op != Op::op_mul) return false;
    const bool after = width(scale->b) == Width::scalar;
    if (after == (width(scale->a) == Width::scalar) || (divides && !after)) return false;
    for (Step* step : {function, scale}) (*gone)[static_cast<size_t>(step - steps.data())] = 1;
    const int shift = second ? add.b : add.a;
    add.pass = kernels().shifted[which][divides];
    add.op = Op::op_erf;  // for its cost
    add.a = after ? scale->a : scale->b;
    add.b = after ? scale->b : scale->a;
    add.c = shift;
    return true;
  }

  // max(a, 0) + log(1 + exp(-|a|)), as ops/activation.py writes it, and the tanh of that.
  bool join_softplus(std::vector<Step>& steps, const std::map<int, size_t>& made,
                     std::vector<uint8_t>* gone, size_t i) {
    Step& last = steps[i];
    if (!is_f32_full(last)) return false;
    std::vector<Step*> parts;
    const auto part = [&](int slot, Op op, int uses) -> Step* {
      Step* const step = maker(steps, made, slot, uses);
      if (step == nullptr || !is_f32_full(*step) || step->op != op) return nullptr;
      parts.push_back(step);
      return step;
    };
    if (last.op == Op::op_tanh) {
      Step* const inner = maker(steps, made, last.a);
      if (inner == nullptr || inner->pass != kernels().softplus) return false;
      (*gone)[static_cast<size_t>(inner - steps.data())] = 1;
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
    const Step* const error = maker(steps, made, lost->a);
    if (error == nullptr || error->pass != kernels().chain[kChainSub][kChainSub][1]) return false;
    parts.push_back(const_cast<Step*>(error));
    const Step* const sum = part(log->a, Op::op_add, 3);
    if (sum == nullptr || error->a != sum->out || error->c != sum->a) return false;
    const Step* const exp = part(sum->a, Op::op_exp, 2);
    const Step* const neg = exp != nullptr ? part(exp->a, Op::op_neg, 1) : nullptr;
    const Step* const abs = neg != nullptr ? part(neg->a, Op::op_abs, 1) : nullptr;
    const bool zero = width(most->b) == Width::scalar;
    if (abs == nullptr || abs->a != (zero ? most->a : most->b) ||
        !is_number(zero ? most->b : most->a, 0.0f) || !is_number(sum->b, 1.0f) ||
        !is_number(error->b, 1.0f)) {
      return false;
    }
    const int in = abs->a;
    for (Step* step : parts) (*gone)[static_cast<size_t>(step - steps.data())] = 1;
    last.pass = kernels().softplus;
    last.op = Op::op_log;  // for its cost
    last.a = last.b = last.c = in;
    return true;
  }

  // exp(a - b), also where b is a row.
  bool join_exp(std::vector<Step>& steps, const std::map<int, size_t>& made,
                std::vector<uint8_t>* gone, size_t i) {
    Step& exp = steps[i];
    if (!is_f32_full(exp) || exp.op != Op::op_exp) return false;
    Step* sub = maker(steps, made, exp.a);
    if (sub == nullptr || sub->op != Op::op_sub) return false;
    const bool by_row = sub->kind == StepKind::row_pass && sub->ref == 1;
    if (!by_row && (!is_f32_full(*sub) || width(sub->a) != Width::full)) return false;
    const bool splat = by_row ? !program_.lanes_inner : width(sub->b) == Width::scalar;
    (*gone)[static_cast<size_t>(sub - steps.data())] = 1;
    exp.kind = sub->kind;
    exp.ref = sub->ref;
    exp.pass = kernels().exp_sub[splat];
    exp.a = sub->a;
    exp.b = exp.c = sub->b;
    return true;
  }

  // The sum of squares of rows.
  bool join_squares(std::vector<Step>& steps, const std::map<int, size_t>& made,
                    std::vector<uint8_t>* gone, size_t i) {
    Step& sum = steps[i];
    const Kernels& k = kernels();
    if (sum.kind != StepKind::reduce || sum.reduce != &k.reduce[0][0] || program_.lanes_inner) {
      return false;
    }
    Step* mul = maker(steps, made, sum.a);
    if (mul == nullptr || !is_f32_full(*mul) || mul->op != Op::op_mul || mul->a != mul->b) return false;
    (*gone)[static_cast<size_t>(mul - steps.data())] = 1;
    sum.reduce = &k.squares;
    sum.a = mul->a;
    join_center(steps, made, gone, i);
    return true;
  }

  // A tile is whole rows, or parts of one.
  bool has_rows() const {
    return program_.full_axes.size() != program_.row_axes.size() && !program_.lanes_inner;
  }

  // f32: full `a` op `b`, which is one value for each row. For mul the operands may be swapped.
  bool by_row(const Step& step, Op op, int* in, int* value) const {
    if (step.op != op || !has_rows() || step.width != Width::full) return false;
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
        !program_.row_axes.empty()) {
      return false;
    }
    *in = step.a;
    *value = step.b;
    return true;
  }

  bool reduces(const Step* step, Op op) const {
    const int which = static_cast<int>(op) - static_cast<int>(Op::op_reduce_sum);
    return step != nullptr && step->kind == StepKind::reduce &&
           step->reduce == &kernels().reduce[which][0] && has_rows();
  }

  bool join_rows(std::vector<Step>& steps, const std::map<int, size_t>& made,
                 std::vector<uint8_t>* gone, size_t i) {
    return join_softmax(steps, made, gone, i) || join_scale(steps, made, gone, i);
  }

  void set_idiom(Step* step, Idiom idiom, int a, int b, int c, int d, int e = -1) const {
    step->kind = StepKind::idiom;
    step->op = Op::count;
    step->idiom = idiom;
    step->a = a;
    step->b = b < 0 ? a : b;
    step->c = c < 0 ? a : c;
    step->d = d < 0 ? a : d;
    step->e = e < 0 ? a : e;
  }

  // exp(a - max(a)) over its sum.
  bool join_softmax(std::vector<Step>& steps, const std::map<int, size_t>& made,
                    std::vector<uint8_t>* gone, size_t i) {
    int powers, total;
    if (!by_row(steps[i], Op::op_div, &powers, &total)) return false;
    Step* const sum = maker(steps, made, total);
    Step* const exp = maker(steps, made, powers, 2);
    if (!reduces(sum, Op::op_reduce_sum) || sum->a != powers || exp == nullptr) return false;
    const bool splat = exp->pass != nullptr && exp->pass == kernels().exp_sub[1];
    if (!splat || (exp->kind != StepKind::row_pass && exp->kind != StepKind::pass)) return false;
    Step* const most = maker(steps, made, exp->b);
    if (!reduces(most, Op::op_reduce_max) || most->a != exp->a) return false;
    for (Step* step : {sum, exp, most}) (*gone)[static_cast<size_t>(step - steps.data())] = 1;
    set_idiom(&steps[i], kernels().softmax[is_exact()], exp->a, -1, -1, -1);
    return true;
  }

  // a - sum(a) / count, where its squares are summed too.
  bool join_center(std::vector<Step>& steps, const std::map<int, size_t>& made,
                   std::vector<uint8_t>* gone, size_t i) {
    Step& squares = steps[i];
    if (squares.kind != StepKind::reduce || squares.reduce != &kernels().squares) return false;
    const auto found = made.find(squares.a);
    if (found == made.end()) return false;
    Step& sub = steps[found->second];
    int in, mean;
    if (!by_row(sub, Op::op_sub, &in, &mean)) return false;
    Step* const div = maker(steps, made, mean);
    if (div == nullptr || div->kind != StepKind::pass || div->op != Op::op_div ||
        !program_.slots[static_cast<size_t>(div->b)].is_constant) {
      return false;
    }
    Step* const sum = maker(steps, made, div->a);
    if (!reduces(sum, Op::op_reduce_sum) || sum->a != in) return false;
    // Nothing may want the centred values before their squares are summed.
    for (size_t k = found->second + 1; k < i; ++k) {
      const Step& between = steps[k];
      if ((*gone)[k]) continue;
      for (int slot : {between.a, between.b, between.c, between.d, between.e}) {
        if (slot == sub.out) return false;
      }
    }
    for (Step* step : {&sub, div, sum}) (*gone)[static_cast<size_t>(step - steps.data())] = 1;
    const int centred = sub.out;
    set_idiom(&squares, kernels().center, in, squares.out, div->b, -1);
    squares.out = centred;
    squares.width = Width::full;
    return true;
  }

  bool is_exact() const { return program_.bound->program->strict; }

  // What a full slot is loaded from is one row for all of the tile.
  bool repeats(const std::vector<Step>& steps, const std::map<int, size_t>& made, int slot) const {
    const auto found = made.find(slot);
    if (found == made.end() || steps[found->second].kind != StepKind::load) return false;
    const TileLoad& load = program_.loads[static_cast<size_t>(steps[found->second].ref)];
    if (load.tensor < 0 || !load.guards.empty() || !load.indirects.empty() || !load.exprs.empty()) {
      return false;
    }
    const std::vector<int>& rows = program_.row_axes;
    return std::all_of(rows.begin(), rows.end(), [&](int a) { return load.address.coef[a] == 0; });
  }

  // A row times or over its value, then times and plus what is full.
  bool join_scale(std::vector<Step>& steps, const std::map<int, size_t>& made,
                  std::vector<uint8_t>* gone, size_t i) {
    Step& outer = steps[i];
    if (!has_rows() || !is_f32_full(outer) || (outer.op != Op::op_mul && outer.op != Op::op_add)) {
      return false;
    }
    for (int side : {outer.a, outer.b}) {
      const int other = side == outer.a ? outer.b : outer.a;
      Step* const inner = maker(steps, made, side);
      if (inner == nullptr || width(other) != Width::full || other == side) continue;
      const bool once = repeats(steps, made, other);
      int in, value;
      const bool over = by_row(*inner, Op::op_div, &in, &value);
      if (outer.op == Op::op_mul && (over || by_row(*inner, Op::op_mul, &in, &value))) {
        const int how = !over ? kScalesTimes : is_exact() ? kScalesOver : kScalesAbout;
        const int mean = centre(steps, made, &in);
        set_idiom(&outer, kernels().scale[mean >= 0][how][0][once], in, value, other, -1, mean);
      } else if (Idiom idiom = nullptr;
                 outer.op == Op::op_add && with_bias(*inner, once, &idiom)) {
        set_idiom(&outer, idiom, inner->a, inner->b, inner->c, other, inner->e);
      } else {
        continue;
      }
      (*gone)[static_cast<size_t>(inner - steps.data())] = 1;
      return true;
    }
    return false;
  }

  // The slot of the means where `in` is values centred for nothing else, which then are not stored:
  // `in` becomes what they are computed from. Else -1.
  int centre(std::vector<Step>& steps, const std::map<int, size_t>& made, int* in) {
    Step* const center = maker(steps, made, *in, 2);  // their squares, and this
    if (center == nullptr || center->kind != StepKind::idiom || center->idiom != kernels().center) {
      return -1;
    }
    const int squares = center->b, from = center->a, count = center->c;
    const int mean = *in;
    Slot& slot = program_.slots[static_cast<size_t>(mean)];
    slot.width = width(squares);
    set_idiom(center, kernels().moments, from, mean, count, -1);
    center->out = squares;
    center->width = width(squares);
    *in = from;
    return mean;
  }

  // The idiom with a bias for one that scales without.
  static bool with_bias(const Step& step, bool once, Idiom* idiom) {
    if (step.kind != StepKind::idiom) return false;
    const auto& scale = kernels().scale;
    for (int centred = 0; centred < 2; ++centred) {
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

  void join_pair(std::vector<Step>& steps, const std::map<int, size_t>& made,
                 std::vector<uint8_t>* gone, size_t i) {
    Step& outer = steps[i];
    if (!is_f32_full(outer) || chain_op(outer.op) < 0) return;
    for (int side : {outer.a, outer.b}) {
      Step* inner = width(side) == Width::full ? maker(steps, made, side) : nullptr;
      if (inner == nullptr) continue;
      const Link second = link(outer, side);
      const Link first = link(*inner, -1);
      if (second.op < 0 || first.op < 0) continue;
      const int splats = (width(first.other) == Width::scalar ? 1 : 0) +
                         (width(second.other) == Width::scalar ? 2 : 0);
      (*gone)[static_cast<size_t>(inner - steps.data())] = 1;
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

  TileProgram& program_;
  std::vector<int> uses_;
};

}  // namespace

void join_steps(TileProgram* program) { Joiner(program).run(); }

}  // namespace onnx_fusion::cpu
