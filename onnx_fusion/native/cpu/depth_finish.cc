#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/contract_axes.h"
#include "cpu/contract_depth.h"

namespace onnx_fusion::cpu {
namespace {

// The lines from the `dot` on that compute something, read one after the other.
class Chain {
 public:
  explicit Chain(const Stage& stage) : stage_(stage), last_(find_dot(stage)) {
    for (size_t i = static_cast<size_t>(last_) + 1; i < stage.body.size(); ++i) {
      const Op op = stage.body[i].op;
      if (op != Op::op_load && op != Op::op_const) lines_.push_back(static_cast<int>(i));
    }
  }

  int last() const { return last_; }
  bool next_is(Op op) const { return at_ < lines_.size() && now().op == op; }
  const Instruction& now() const { return stage_.body[static_cast<size_t>(lines_[at_])]; }
  bool ends() const { return at_ + 1 == lines_.size(); }
  int line() const { return lines_[at_]; }
  size_t mark() const { return at_; }
  void back(size_t at, int last) {
    at_ = at;
    last_ = last;
  }

  // Takes `op` of the last value and another one, which it returns (as a line), or -1.
  int take(Op op) {
    if (!next_is(op) || now().arg_count != 2) return -1;
    const int a = line_of(now().args[0]), b = line_of(now().args[1]);
    if ((a == last_) == (b == last_)) return -1;
    const int other = a == last_ ? b : a;
    last_ = lines_[at_++];
    return other;
  }
  bool take_unary(Op op) {
    if (!next_is(op) || line_of(now().args[0]) != last_) return false;
    last_ = lines_[at_++];
    return true;
  }
  bool take_constant(Op op, float* number) {
    const size_t at = at_;
    const int last = last_, other = take(op);
    if (other >= 0 && constant(other, number)) return true;
    back(at, last);
    return false;
  }
  int line_of(int value) const { return stage_.values[static_cast<size_t>(value)]; }

 private:
  bool constant(int line, float* number) const {
    const Instruction& from = stage_.body[static_cast<size_t>(line)];
    if (from.op != Op::op_const || from.dtype != DType::f32) return false;
    const uint32_t bits = static_cast<uint32_t>(from.literal);
    std::memcpy(number, &bits, sizeof bits);
    return !std::isnan(*number);
  }

  const Stage& stage_;
  int last_;
  size_t at_ = 0;
  std::vector<int> lines_;
};

// Whether positions of the axis are neighbours in memory.
bool runs_along(const BoundStage& stage, const Linear& address, const Axis& axis) {
  int64_t wanted = 1;
  for (int k = axis.count - 1; k >= 0; --k) {
    const int letter = axis.letters[k];
    if (stage.extents[letter] > 1 && address.coef[letter] != wanted) return false;
    wanted *= stage.extents[letter];
  }
  return true;
}

// Whether a load is that of one number for each position of the axis.
bool lies_along(const BoundStage& stage, const BoundMap& map, const Axis& axis) {
  if (!map.linear || map.guarded || map.indirect) return false;
  LetterSet inside = 0;
  for (int k = 0; k < axis.count; ++k) inside |= static_cast<LetterSet>(1u << axis.letters[k]);
  for (int l = 0; l < kMaxLetters; ++l) {
    const bool free = (inside >> l & 1) != 0 || stage.extents[l] <= 1;
    if (!free && map.address.coef[l] != 0) return false;
  }
  return runs_along(stage, map.address, axis);
}

// The activation that starts at the chain's present value; the chain then stands at the store.
bool find_end(Chain* chain, DepthFinish* finish) {
  const int sum = chain->last();
  const size_t start = chain->mark();
  if (chain->take_unary(Op::op_sigmoid)) {
    finish->end = DepthEnd::silu;
    return chain->take(Op::op_mul) == sum;
  }
  float number = 0;
  bool gate = false;
  if (chain->take_constant(Op::op_mul, &number)) {
    finish->scale = number;
    gate = true;
  }
  if (chain->take_constant(Op::op_add, &number)) {
    finish->shift = number;
    gate = true;
  }
  // Applied in this order: first low, then high.
  const bool low = chain->take_constant(Op::op_max, &finish->low);
  const bool high = chain->take_constant(Op::op_min, &finish->high);
  if (high && !low && chain->take_constant(Op::op_max, &number)) {
    if (number > finish->high) return false;
    finish->low = number;
  }
  if (gate) finish->end = DepthEnd::gate;
  if (chain->mark() > start && chain->next_is(Op::op_mul)) {
    const size_t before = chain->mark();
    const int clamped = chain->last(), other = chain->take(Op::op_mul);
    if (other == sum) {
      finish->end = DepthEnd::gated;
    } else {
      chain->back(before, clamped);
    }
  }
  return true;
}

// A factor and a number added after the activation.
void find_after(Chain* chain, DepthFinish* finish) {
  const bool scaled = chain->take_constant(Op::op_mul, &finish->after[0]);
  const bool shifted = chain->take_constant(Op::op_add, &finish->after[1]);
  finish->scaled = scaled || shifted;
}

}  // namespace

bool find_depth_finish(const BoundStage& stage, const Axis& channel, DepthFinish* finish) {
  const Stage& s = *stage.stage;
  Chain chain(s);
  finish->low = -std::numeric_limits<float>::infinity();
  finish->high = std::numeric_limits<float>::infinity();
  const size_t start = chain.mark();
  const int dot = chain.last();
  const int bias = chain.take(Op::op_add);
  if (bias >= 0 && s.body[static_cast<size_t>(bias)].op == Op::op_load) {
    const Instruction& load = s.body[static_cast<size_t>(bias)];
    const BoundMap& map = stage.maps[static_cast<size_t>(bias)];
    if (load.dtype != DType::f32 || !lies_along(stage, map, channel)) return false;
    finish->bias = load.tensor;
    finish->bias_base = map.address.base;
  } else {
    chain.back(start, dot);
  }
  if (!find_end(&chain, finish)) return false;
  find_after(&chain, finish);
  if (!chain.next_is(Op::op_store) || !chain.ends()) return false;
  const Instruction& store = chain.now();
  const BoundMap& map = stage.maps[static_cast<size_t>(chain.line())];
  if (store.dtype != DType::f32 || chain.line_of(store.args[0]) != chain.last()) return false;
  if (!runs_along(stage, map.address, channel)) return false;
  finish->out = store.tensor;
  finish->store = &map.address;
  return true;
}

}  // namespace onnx_fusion::cpu
