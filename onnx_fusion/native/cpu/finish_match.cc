// Which epilogues `Finish` runs: reads a stage's lines behind its contraction.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/finish.h"

namespace onnx_fusion::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kLeastPiece = 32;  // points between two jumps

// The step between neighbours of a flattened axis, and how many of them have it.
int64_t step_along(const BoundStage& stage, const Axis& axis, const Linear& address, int64_t* run) {
  int64_t step = 0;
  *run = 1;
  for (int k = axis.count; k-- > 0;) {
    const int letter = axis.letters[k];
    if (stage.extents[letter] == 1) continue;
    if (*run == 1) {
      step = address.coef[letter];
    } else if (address.coef[letter] != step * *run) {
      break;
    }
    *run *= stage.extents[letter];
  }
  return step;
}

bool constant_of(const Stage& stage, int value, float* out) {
  const Instruction& line =
      stage.body[static_cast<size_t>(stage.values[static_cast<size_t>(value)])];
  if (line.op != Op::op_const || line.dtype != DType::f32) return false;
  const uint32_t bits = static_cast<uint32_t>(line.literal);
  std::memcpy(out, &bits, sizeof bits);
  return !std::isnan(*out);
}

constexpr int kX = -1, kNothing = -2, kFree = 100;  // kFree + i: a constant, which becomes p[i]
constexpr int kZero = 200, kOne = 201;
constexpr int kLoaded = 300;

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
      {Activation::prelu,
       {{Op::op_lt, {kX, kZero, kNothing}},
        {Op::op_mul, {kX, kLoaded, kNothing}},
        {Op::op_where, {0, 1, kX}}}},
      {Activation::silu,
       {{Op::op_sigmoid, {kX, kNothing, kNothing}}, {Op::op_mul, {kX, 0, kNothing}}}},
      {Activation::sigmoid, {{Op::op_sigmoid, {kX, kNothing, kNothing}}}},
      {Activation::tanh, {{Op::op_tanh, {kX, kNothing, kNothing}}}},
      {Activation::mish,
       {{Op::op_abs, {kX, kNothing, kNothing}},
        {Op::op_neg, {0, kNothing, kNothing}},
        {Op::op_exp, {1, kNothing, kNothing}},
        {Op::op_max, {kX, kZero, kNothing}},
        {Op::op_add, {2, kOne, kNothing}},
        {Op::op_sub, {4, kOne, kNothing}},
        {Op::op_sub, {5, 2, kNothing}},
        {Op::op_div, {6, 4, kNothing}},
        {Op::op_log, {4, kNothing, kNothing}},
        {Op::op_sub, {8, 7, kNothing}},
        {Op::op_add, {3, 9, kNothing}},
        {Op::op_tanh, {10, kNothing, kNothing}},
        {Op::op_mul, {kX, 11, kNothing}}}},
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
      {Activation::gelu_tanh,
       {{Op::op_mul, {kX, kFree + 1, kNothing}},
        {Op::op_mul, {kX, 0, kNothing}},
        {Op::op_add, {1, kOne, kNothing}},
        {Op::op_mul, {kX, 2, kNothing}},
        {Op::op_mul, {3, kFree + 2, kNothing}},
        {Op::op_tanh, {4, kNothing, kNothing}},
        {Op::op_add, {5, kOne, kNothing}},
        {Op::op_mul, {6, kFree, kNothing}},
        {Op::op_mul, {kX, 7, kNothing}}}},
  };
  return all;
}

// Whether the lines from `at` on, loads and constants left out, are this shape over line x; then p
// has its constants, *loaded the line of what it loads, and *end its last line.
bool match_shape(const Stage& s, const Shape& shape, int x, size_t at, float* p, int* loaded,
                 size_t* end) {
  std::vector<int> found;
  const auto fits = [&](int value, int want) {
    const int line = s.values[static_cast<size_t>(value)];
    if (want == kX) return line == x;
    if (want == kLoaded) {
      *loaded = line;
      return s.body[static_cast<size_t>(line)].op == Op::op_load;
    }
    if (want < kFree) return want >= 0 && line == found[static_cast<size_t>(want)];
    float number = 0;
    if (!constant_of(s, value, &number)) return false;
    if (want == kZero) return number == 0.0f;
    if (want == kOne) return number == 1.0f;
    p[want - kFree] = number;
    return true;
  };
  for (const ShapeLine& want : shape.lines) {
    while (at < s.body.size() && (s.body[at].op == Op::op_const || s.body[at].op == Op::op_load)) {
      ++at;
    }
    if (at == s.body.size() || s.body[at].op != want.op) return false;
    const Instruction& line = s.body[at];
    if (line.dtype != DType::f32 && line.op != Op::op_lt) return false;
    const int count = static_cast<int>(
        std::count_if(want.args, want.args + 3, [](int arg) { return arg != kNothing; }));
    if (line.arg_count != count) return false;
    bool ok = true;
    for (int i = 0; i < count; ++i) ok = ok && fits(line.args[i], want.args[i]);
    const bool ordered = line.op == Op::op_lt || line.op == Op::op_sub || line.op == Op::op_div;
    const bool either = count == 2 && !ordered;
    if (!ok && !(either && fits(line.args[1], want.args[0]) && fits(line.args[0], want.args[1]))) {
      return false;
    }
    found.push_back(static_cast<int>(at++));
  }
  *end = at - 1;
  return true;
}

}  // namespace

bool Finish::flatten(const BoundMap& map, Plane* plane) {
  if (!map.linear || map.guarded || map.indirect) return false;
  plane->address = &map.address;
  int64_t rows = 1, columns = 1;
  plane->row = step_along(*stage_, rows_, map.address, &rows);
  plane->column = step_along(*stage_, columns_, map.address, &columns);
  row_run_ = std::min(row_run_, rows);
  column_run_ = std::min(column_run_, columns);
  return true;
}

std::unique_ptr<Finish> Finish::make(const BoundStage& stage, int dot, const Axis& rows,
                                     const Axis& columns) {
  const Stage& s = *stage.stage;
  std::unique_ptr<Finish> plan(new Finish);
  plan->low_ = -kInfinity;
  plan->high_ = kInfinity;
  plan->stage_ = &stage;
  plan->rows_ = rows;
  plan->columns_ = columns;
  const int64_t all_rows = axis_extent(stage, rows), all_columns = axis_extent(stage, columns);
  plan->row_run_ = all_rows;
  plan->column_run_ = all_columns;
  LetterSet in_axes = 0;
  for (const Axis* axis : {&rows, &columns}) {
    for (int k = 0; k < axis->count; ++k) in_axes |= static_cast<LetterSet>(1u << axis->letters[k]);
  }
  plan->free_ = static_cast<LetterSet>(~in_axes);

  // The chain from the dot to the stores; every other line must be a load or a constant.
  const Op op = s.body[static_cast<size_t>(dot)].op;
  int last = op == Op::op_dot || op == Op::op_load || op_is_reduction(op) ? dot : -1;
  // In this order, each at most once; the gain on one side of the residual.
  enum {
    kScale = 1,
    kBias,
    kEarlyGain,
    kEarlyGainBias,
    kResidual,
    kGain,
    kGainBias,
    kLow,
    kHigh,
    kActive,
    kAfterScale,
    kAfterShift,
    kLateGain,
    kLateGainBias,
    kLateResidual
  };
  int order = 0;
  bool stored = false, shifted = false;
  const auto advance = [&](int to) {
    const bool ok = order < to;
    order = to;
    return ok;
  };
  for (size_t at = static_cast<size_t>(dot) + 1; at < s.body.size(); ++at) {
    const Instruction& line = s.body[at];
    if (line.op == Op::op_const || line.op == Op::op_load) continue;
    const auto line_of = [&](int value) { return s.values[static_cast<size_t>(value)]; };
    if (line.op == Op::op_store) {
      if (line_of(line.args[0]) != last || line.dtype != DType::f32) return nullptr;
      Plane plane;
      plane.tensor = line.tensor;
      if (!plan->flatten(stage.maps[at], &plane)) return nullptr;
      if (plane.column != 1 && columns.count != 0) return nullptr;
      if (stored && (plane.row != plan->out_.row || plane.column != plan->out_.column)) {
        return nullptr;
      }
      if (stored) {
        plan->copies_.push_back(plane);
      } else {
        plan->out_ = plane;
      }
      stored = true;
      continue;
    }
    if (stored) return nullptr;
    bool active = false;
    for (const Shape& shape : shapes()) {
      size_t end = 0;
      int loaded = -1;
      if (order >= kActive || !match_shape(s, shape, last, at, plan->p_, &loaded, &end)) continue;
      if (loaded >= 0) {
        plan->slope_.tensor = s.body[static_cast<size_t>(loaded)].tensor;
        const bool flat = plan->flatten(stage.maps[static_cast<size_t>(loaded)], &plan->slope_);
        if (!flat || plan->slope_.column < 0 || plan->slope_.column > 1) return nullptr;
      }
      order = kActive;
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
      const bool first = order == 0;
      if (!advance(first ? kScale : kAfterScale)) return nullptr;
      (first ? plan->scale_ : plan->after_[0]) = number;
      plan->scaled_ = !first;
    } else if (line.op == Op::op_add && constant_of(s, other, &number)) {
      if (order <= kBias && !shifted) {
        order = kBias;
        shifted = true;
        plan->shift_ = number;
      } else {
        if (order < kResidual || !advance(kAfterShift)) return nullptr;
        plan->scaled_ = true;
        plan->after_[1] = number;
      }
    } else if (line.op == Op::op_max && constant_of(s, other, &number)) {
      if (!advance(kLow)) return nullptr;
      plan->low_ = number;
    } else if (line.op == Op::op_min && constant_of(s, other, &number)) {
      if (!advance(kHigh)) return nullptr;
      plan->high_ = number;
    } else if (line.op == Op::op_add || line.op == Op::op_mul) {
      const size_t from = static_cast<size_t>(line_of(other));
      const Instruction& load = s.body[from];
      if (load.op != Op::op_load || load.dtype != DType::f32) return nullptr;
      Plane plane;
      plane.tensor = load.tensor;
      if (!plan->flatten(stage.maps[from], &plane)) return nullptr;
      const bool along = plane.row == 0 && plane.column == 1;
      if (line.op == Op::op_mul) {
        const bool late = order >= kLow, early = order < kResidual;
        Plane* const gain = late ? &plan->late_gain_ : &plan->gain_;
        if (!along || gain->tensor >= 0) return nullptr;
        if (!advance(late ? kLateGain : early ? kEarlyGain : kGain)) return nullptr;
        if (!late) plan->gain_first_ = early;
        *gain = plane;
      } else if (plane.column == 0 && order < kBias) {
        order = kBias;
        plan->row_bias_ = plane;
      } else if (along && order < kBias) {
        order = kBias;
        plan->column_bias_ = plane;
      } else if (along && (order == kEarlyGain || order == kGain || order == kLateGain)) {
        (order == kLateGain ? plan->late_bias_ : plan->gain_bias_) = plane;
        ++order;
      } else if (plane.column == 1 &&
                 (order < kResidual || (order >= kLow && plan->residual_.tensor < 0))) {
        plan->late_ = order >= kLow;
        order = plan->late_ ? kLateResidual : kResidual;
        plan->residual_ = plane;
      } else {
        return nullptr;
      }
    } else {
      return nullptr;
    }
    last = static_cast<int>(at);
  }
  const bool even = plan->row_run_ == all_rows && plan->column_run_ == all_columns;
  if (!stored || (!even && plan->row_run_ * plan->column_run_ < kLeastPiece)) return nullptr;
  plan->whole_ = even && plan->copies_.empty();
  return plan;
}

}  // namespace onnx_fusion::cpu
