// Two passes over a compiled program: joining steps, and giving buffers to slots.
#include <algorithm>
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
      if (!join_silu(steps, made, &gone, i) && !join_exp(steps, made, &gone, i) &&
          !join_squares(steps, made, &gone, i)) {
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

  // The step that makes a slot used only once, or null.
  Step* maker(std::vector<Step>& steps, const std::map<int, size_t>& made, int slot) const {
    const auto found = made.find(slot);
    if (found == made.end() || uses_[static_cast<size_t>(slot)] != 1) return nullptr;
    return &steps[found->second];
  }

  bool join_silu(std::vector<Step>& steps, const std::map<int, size_t>& made,
                 std::vector<uint8_t>* gone, size_t i) {
    Step& mul = steps[i];
    if (!is_f32_full(mul) || mul.op != Op::op_mul) return false;
    for (int side : {mul.a, mul.b}) {
      Step* sigmoid = maker(steps, made, side);
      const int other = side == mul.a ? mul.b : mul.a;
      if (sigmoid == nullptr || !is_f32_full(*sigmoid) || sigmoid->op != Op::op_sigmoid ||
          sigmoid->a != other) {
        continue;
      }
      (*gone)[static_cast<size_t>(sigmoid - steps.data())] = 1;
      mul.pass = kernels().silu;
      mul.op = Op::op_sigmoid;
      mul.a = mul.b = mul.c = other;
      return true;
    }
    return false;
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
    return true;
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

void place_slots(TileProgram* program) {
  const size_t count = program->slots.size();
  std::vector<int> first(count, -1), last(count, -1);
  int now = 0;
  for (const Segment& segment : program->segments) {
    const int begin = now, end = now + static_cast<int>(segment.steps.size());
    const auto use = [&](int slot) {
      if (slot < 0) return;
      const size_t s = static_cast<size_t>(slot);
      if (first[s] < 0) first[s] = now;
      // What a loop reads but did not make in this round must outlive the loop.
      last[s] = segment.loops && first[s] < begin ? std::max(last[s], end) : std::max(last[s], now);
    };
    for (const Step& step : segment.steps) {
      for (int slot : {step.a, step.b, step.c, step.out}) {
        use(slot);
      }
      if (step.kind == StepKind::load) {
        for (const TileIndirect& indirect : program->loads[static_cast<size_t>(step.ref)].indirects) {
          use(indirect.slot);
        }
      }
      if (step.kind == StepKind::gather) {
        for (int slot : {step.out, step.b, step.c}) {
          first[static_cast<size_t>(slot)] = begin;  // kept from round to round
          last[static_cast<size_t>(slot)] = std::max(last[static_cast<size_t>(slot)], end);
        }
      }
      ++now;
    }
  }
  // Buffers are handed out in the order of time; one that is free again serves the next of its size.
  std::vector<size_t> order;
  for (size_t s = 0; s < count; ++s) {
    if (first[s] < 0) program->slots[s].is_constant = false;  // has no place to be written to
    if (first[s] >= 0 && !program->slots[s].pointed) order.push_back(s);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return first[a] < first[b]; });
  struct Busy {
    int until;
    size_t offset, bytes;
  };
  std::vector<Busy> busy;
  std::map<size_t, std::vector<size_t>> free;
  size_t top = 0;
  for (size_t s : order) {
    Slot& slot = program->slots[s];
    const int64_t elements = slot.width == Width::full  ? program->full_capacity
                             : slot.width == Width::row ? program->row_capacity
                                                        : 1;
    // An odd number of lines keeps buffers from falling on the same sets of the cache.
    size_t lines = (static_cast<size_t>(elements) * slot.bytes + 63) / 64;
    if (lines > 8) lines |= 1;
    const size_t bytes = lines * 64;
    for (size_t b = 0; b < busy.size();) {
      if (busy[b].until < first[s]) {
        free[busy[b].bytes].push_back(busy[b].offset);
        busy[b] = busy.back();
        busy.pop_back();
      } else {
        ++b;
      }
    }
    std::vector<size_t>& same = free[bytes];
    if (!slot.is_constant && !same.empty()) {
      slot.offset = same.back();
      same.pop_back();
    } else {
      slot.offset = top;
      top += bytes;
    }
    program->buffers += slot.width == Width::full && !slot.is_constant;
    if (!slot.is_constant) busy.push_back({last[s], slot.offset, bytes});
  }
  bool scattered = false;
  for (const TileLoad& load : program->loads) {
    scattered = scattered || !load.indirects.empty() || !load.exprs.empty();
  }
  const size_t joins = program->joined_offset;
  program->joined_offset = top;
  top += (joins * sizeof(int64_t) + 63) / 64 * 64;
  program->offsets_offset = top;
  if (scattered) top += static_cast<size_t>(program->full_capacity) * sizeof(int64_t) + 64;
  program->pointers_offset = (top + 63) / 64 * 64;
  program->scratch_bytes = program->pointers_offset + (count + 1) * sizeof(char*);
}

}  // namespace onnx_fusion::cpu
