#include "cpu/finish.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace onnx_fusion::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The step between neighbours of a flattened axis, if it is the same everywhere.
bool step_along(const BoundStage& stage, const Axis& axis, const Linear& address, int64_t* step) {
  *step = 0;
  int64_t extent = 1;
  for (int k = axis.count; k-- > 0;) {
    const int letter = axis.letters[k];
    if (stage.extents[letter] == 1) continue;
    if (extent == 1) {
      *step = address.coef[letter];
    } else if (address.coef[letter] != *step * extent) {
      return false;
    }
    extent *= stage.extents[letter];
  }
  return true;
}

bool constant_of(const Stage& stage, int value, float* out) {
  const Instruction& line = stage.body[static_cast<size_t>(stage.values[static_cast<size_t>(value)])];
  if (line.op != Op::op_const || line.dtype != DType::f32) return false;
  const uint32_t bits = static_cast<uint32_t>(line.literal);
  std::memcpy(out, &bits, sizeof bits);
  return !std::isnan(*out);
}

constexpr int kX = -1, kNothing = -2, kFree = 100;  // kFree + i: a constant, which becomes p[i]
constexpr int kZero = 200, kOne = 201;

struct ShapeLine {
  Op op;
  int args[3];  // kX, an earlier line of the shape, a constant
};

struct Shape {
  Activation activation;
  std::vector<ShapeLine> lines;
};

// What lowering writes for activations; longer shapes come before those they begin with.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {Activation::gate,
       {{Op::op_mul, {kX, kFree, kNothing}},
        {Op::op_add, {0, kFree + 1, kNothing}},
        {Op::op_max, {1, kFree + 2, kNothing}},
        {Op::op_min, {2, kFree + 3, kNothing}},
        {Op::op_mul, {kX, 3, kNothing}}}},
      {Activation::ramp,
       {{Op::op_mul, {kX, kFree, kNothing}},
        {Op::op_add, {0, kFree + 1, kNothing}},
        {Op::op_max, {1, kFree + 2, kNothing}},
        {Op::op_min, {2, kFree + 3, kNothing}}}},
      {Activation::leaky,
       {{Op::op_mul, {kX, kFree, kNothing}},
        {Op::op_lt, {kX, kZero, kNothing}},
        {Op::op_where, {1, 0, kX}}}},
      {Activation::silu, {{Op::op_sigmoid, {kX, kNothing, kNothing}}, {Op::op_mul, {kX, 0, kNothing}}}},
      {Activation::sigmoid, {{Op::op_sigmoid, {kX, kNothing, kNothing}}}},
      {Activation::tanh, {{Op::op_tanh, {kX, kNothing, kNothing}}}},
      {Activation::gelu,
       {{Op::op_mul, {kX, kFree, kNothing}},
        {Op::op_mul, {kX, kFree + 1, kNothing}},
        {Op::op_erf, {1, kNothing, kNothing}},
        {Op::op_add, {2, kOne, kNothing}},
        {Op::op_mul, {0, 3, kNothing}}}},
      {Activation::gelu_tanh,
       {{Op::op_mul, {kX, kFree, kNothing}},
        {Op::op_mul, {kX, kX, kNothing}},
        {Op::op_mul, {kX, kFree + 1, kNothing}},
        {Op::op_mul, {1, 2, kNothing}},
        {Op::op_add, {kX, 3, kNothing}},
        {Op::op_mul, {4, kFree + 2, kNothing}},
        {Op::op_tanh, {5, kNothing, kNothing}},
        {Op::op_add, {6, kOne, kNothing}},
        {Op::op_mul, {0, 7, kNothing}}}},
  };
  return all;
}

// Whether the lines from `at` on, loads and constants left out, are this shape over line x; then p
// has its constants and *end its last line.
bool match_shape(const Stage& s, const Shape& shape, int x, size_t at, float* p, size_t* end) {
  std::vector<int> found;
  const auto fits = [&](int value, int want) {
    const int line = s.values[static_cast<size_t>(value)];
    if (want == kX) return line == x;
    if (want < kFree) return want >= 0 && line == found[static_cast<size_t>(want)];
    float number = 0;
    if (!constant_of(s, value, &number)) return false;
    if (want == kZero) return number == 0.0f;
    if (want == kOne) return number == 1.0f;
    p[want - kFree] = number;
    return true;
  };
  for (const ShapeLine& want : shape.lines) {
    while (at < s.body.size() && (s.body[at].op == Op::op_const || s.body[at].op == Op::op_load)) ++at;
    if (at == s.body.size() || s.body[at].op != want.op) return false;
    const Instruction& line = s.body[at];
    if (line.dtype != DType::f32 && line.op != Op::op_lt) return false;
    const int count = static_cast<int>(std::count_if(want.args, want.args + 3,
                                                     [](int arg) { return arg != kNothing; }));
    if (line.arg_count != count) return false;
    bool ok = true;
    for (int i = 0; i < count; ++i) ok = ok && fits(line.args[i], want.args[i]);
    const bool either = count == 2 && line.op != Op::op_lt;
    if (!ok && !(either && fits(line.args[1], want.args[0]) && fits(line.args[0], want.args[1]))) {
      return false;
    }
    found.push_back(static_cast<int>(at++));
  }
  *end = at - 1;
  return true;
}

}  // namespace

bool Finish::flatten(const BoundStage& stage, const BoundMap& map, const Axis& rows,
                     const Axis& columns, Plane* plane) {
  if (!map.linear || map.guarded || map.indirect) return false;
  plane->address = &map.address;
  return step_along(stage, rows, map.address, &plane->row) &&
         step_along(stage, columns, map.address, &plane->column);
}

std::unique_ptr<Finish> Finish::make(const BoundStage& stage, int dot, const Axis& rows,
                                     const Axis& columns) {
  const Stage& s = *stage.stage;
  std::unique_ptr<Finish> plan(new Finish);
  plan->low_ = -kInfinity;
  plan->high_ = kInfinity;
  LetterSet in_axes = 0;
  for (const Axis* axis : {&rows, &columns}) {
    for (int k = 0; k < axis->count; ++k) in_axes |= static_cast<LetterSet>(1u << axis->letters[k]);
  }
  plan->free_ = static_cast<LetterSet>(~in_axes);

  // The chain from the dot to the one store; every other line must be a load or a constant.
  const Op op = s.body[static_cast<size_t>(dot)].op;
  int last = op == Op::op_dot || op_is_reduction(op) ? dot : -1;
  // Scale 1, bias 2, residual 3, low 4, high 5, activation 6, late residual 7: in this order, each at
  // most once.
  int order = 0;
  bool stored = false;
  const auto advance = [&](int to) {
    const bool ok = order < to;
    order = to;
    return ok;
  };
  for (size_t at = static_cast<size_t>(dot) + 1; at < s.body.size(); ++at) {
    const Instruction& line = s.body[at];
    if (stored) return nullptr;
    if (line.op == Op::op_const || line.op == Op::op_load) continue;
    const auto line_of = [&](int value) { return s.values[static_cast<size_t>(value)]; };
    if (line.op == Op::op_store) {
      if (line_of(line.args[0]) != last || line.dtype != DType::f32) return nullptr;
      plan->out_.tensor = line.tensor;
      if (!flatten(stage, stage.maps[at], rows, columns, &plan->out_)) return nullptr;
      if (plan->out_.column != 1 && !(columns.count == 0)) return nullptr;
      stored = true;
      continue;
    }
    bool active = false;
    for (const Shape& shape : shapes()) {
      size_t end = 0;
      if (order >= 6 || !match_shape(s, shape, last, at, plan->p_, &end)) continue;
      order = 6;
      active = true;
      plan->activation_ = shape.activation;
      last = static_cast<int>(at = end);
      break;
    }
    if (active) continue;
    if (line.arg_count != 2 || line.dtype != DType::f32) return nullptr;
    const int side = line_of(line.args[0]) == last ? 1 : line_of(line.args[1]) == last ? 0 : -1;
    if (side < 0) return nullptr;
    const int other = line.args[side];
    float number = 0;
    if (line.op == Op::op_mul && constant_of(s, other, &number)) {
      if (order == 6 || !advance(1)) return nullptr;
      plan->scale_ = number;
    } else if (line.op == Op::op_max && constant_of(s, other, &number)) {
      if (!advance(4)) return nullptr;
      plan->low_ = number;
    } else if (line.op == Op::op_min && constant_of(s, other, &number)) {
      if (!advance(5)) return nullptr;
      plan->high_ = number;
    } else if (line.op == Op::op_add) {
      const size_t from = static_cast<size_t>(line_of(other));
      const Instruction& load = s.body[from];
      if (load.op != Op::op_load || load.dtype != DType::f32) return nullptr;
      Plane plane;
      plane.tensor = load.tensor;
      if (!flatten(stage, stage.maps[from], rows, columns, &plane)) return nullptr;
      if (plane.column == 0 && order < 2) {
        order = 2;
        plan->row_bias_ = plane;
      } else if (plane.row == 0 && plane.column == 1 && order < 2) {
        order = 2;
        plan->column_bias_ = plane;
      } else if (plane.column == 1 && (order < 3 || (order == 6 && plan->residual_.tensor < 0))) {
        plan->late_ = order == 6;
        order = order == 6 ? 7 : 3;
        plan->residual_ = plane;
      } else {
        return nullptr;
      }
    } else {
      return nullptr;
    }
    last = static_cast<int>(at);
  }
  return stored ? std::move(plan) : nullptr;
}

int64_t Finish::begin(const Plane& plane, const int64_t* fixed) const {
  int64_t at = plane.address->base;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (free_ >> l & 1) at += plane.address->coef[l] * fixed[l];
  }
  return at;
}

FinishRows Finish::rows(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                        int64_t c0, int64_t c1, const float* accumulators, int64_t ld) const {
  const auto memory = [&](const Plane& plane) -> float* {
    if (plane.tensor < 0) return nullptr;
    return reinterpret_cast<float*>(context.tensors[plane.tensor]) + begin(plane, fixed) +
           r0 * plane.row + c0 * plane.column;
  };
  FinishRows rows{};
  rows.accumulators = accumulators;
  rows.ld = ld;
  rows.rows = r1 - r0;
  rows.columns = c1 - c0;
  rows.scale = scale_;
  rows.clamps = low_ != -kInfinity || high_ != kInfinity;
  rows.low = low_;
  rows.high = high_;
  rows.row_bias = memory(row_bias_);
  rows.row_step = row_bias_.row;
  rows.column_bias = memory(column_bias_);
  rows.residual = memory(residual_);
  rows.residual_ld = residual_.row;
  rows.activation = activation_;
  rows.late = late_;
  std::copy(p_, p_ + 4, rows.p);
  rows.out = memory(out_);
  rows.out_ld = out_.row;
  return rows;
}

void Finish::run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                 int64_t c0, int64_t c1, const float* accumulators, int64_t ld) const {
  finish_passes().all(rows(context, fixed, r0, r1, c0, c1, accumulators, ld));
}

}  // namespace onnx_fusion::cpu
