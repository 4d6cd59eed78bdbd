// Expressions over boxes of letters: values, intervals, linear forms (docs/tile_program.md, section
// 7).
#include <algorithm>

#include "program/bind.h"

namespace onnx_fusion {
namespace {

constexpr int64_t kLimit = int64_t{1} << 60;

int64_t floor_div(int64_t a, int64_t b) {  // b > 0
  const int64_t q = a / b;
  return q - (a % b < 0);
}

int64_t floor_mod(int64_t a, int64_t b) {
  const int64_t r = a % b;
  return r < 0 ? r + b : r;
}

struct Form {
  Interval range;
  bool linear = true;
  Linear form;  // letters with one position are folded into the base
};

bool is_constant(const Form& f) { return f.range.lo == f.range.hi; }

Form constant(int64_t value) {
  Form f;
  f.range = {value, value};
  f.form.base = value;
  return f;
}

class Analysis {
 public:
  Analysis(const Program& program, const int64_t* dims, const Interval* letters)
      : program_(program), dims_(dims), letters_(letters) {}

  bool run(ExprId id, Form* out) const {
    const ExprNode& node = program_.exprs[static_cast<size_t>(id)];
    if (node.op == ExprOp::number) {
      *out = constant(node.value);
      return true;
    }
    if (node.op == ExprOp::dim) {
      *out = constant(dims_[node.value]);
      return in_limits(out->range);
    }
    if (node.op == ExprOp::letter) {
      const Interval range = letters_[node.value];
      *out = constant(range.lo);
      if (range.lo != range.hi) {
        out->range = range;
        out->form.base = 0;
        out->form.coef[node.value] = 1;
      }
      return true;
    }
    Form a, b;
    if (!run(node.a, &a)) return false;
    if (node.b >= 0 && !run(node.b, &b)) return false;
    if (!combine(node.op, a, b, out) || !in_limits(out->range)) return false;
    if (is_constant(*out)) *out = constant(out->range.lo);
    return true;
  }

 private:
  static bool in_limits(Interval r) { return r.lo >= -kLimit && r.hi <= kLimit; }

  bool combine(ExprOp op, const Form& a, const Form& b, Form* out) const {
    switch (op) {
      case ExprOp::neg:
        *out = a;
        out->range = {-a.range.hi, -a.range.lo};
        scale(-1, out);
        return true;
      case ExprOp::add:
        *out = a;
        out->range = {a.range.lo + b.range.lo, a.range.hi + b.range.hi};
        plus(b, 1, out);
        return true;
      case ExprOp::sub:
        *out = a;
        out->range = {a.range.lo - b.range.hi, a.range.hi - b.range.lo};
        plus(b, -1, out);
        return true;
      case ExprOp::mul: return multiply(a, b, out);
      case ExprOp::div:
      case ExprOp::mod: return is_constant(b) && b.range.lo > 0 && divide(op, a, b.range.lo, out);
      case ExprOp::min:
      case ExprOp::max: {
        const bool low = op == ExprOp::min;
        if (a.range.hi <= b.range.lo) {
          *out = low ? a : b;
        } else if (b.range.hi <= a.range.lo) {
          *out = low ? b : a;
        } else {
          out->linear = false;
          out->range =
              low ? Interval{std::min(a.range.lo, b.range.lo), std::min(a.range.hi, b.range.hi)}
                  : Interval{std::max(a.range.lo, b.range.lo), std::max(a.range.hi, b.range.hi)};
        }
        return true;
      }
      default: return false;
    }
  }

  static void scale(int64_t by, Form* f) {
    f->form.base *= by;
    for (int64_t& c : f->form.coef) c *= by;
  }

  static void plus(const Form& b, int64_t sign, Form* out) {
    out->linear = out->linear && b.linear;
    if (!out->linear) return;
    out->form.base += sign * b.form.base;
    for (int l = 0; l < kMaxLetters; ++l) out->form.coef[l] += sign * b.form.coef[l];
  }

  static bool multiply(const Form& a, const Form& b, Form* out) {
    const int64_t x[2] = {a.range.lo, a.range.hi}, y[2] = {b.range.lo, b.range.hi};
    Interval range{INT64_MAX, INT64_MIN};
    for (int64_t u : x) {
      for (int64_t v : y) {
        int64_t product;
        if (__builtin_mul_overflow(u, v, &product)) return false;
        range = {std::min(range.lo, product), std::max(range.hi, product)};
      }
    }
    if (!in_limits(range)) return false;
    const Form& factor = is_constant(a) ? a : b;
    *out = is_constant(a) ? b : a;
    out->range = range;
    out->linear = out->linear && is_constant(factor);
    if (out->linear) {
      if (factor.range.lo == 0) {
        *out = constant(0);
      } else {
        scale(factor.range.lo, out);
      }
    }
    return true;
  }

  // a // c and a % c stay linear where the terms split into multiples of c and a rest within [0,
  // c).
  bool divide(ExprOp op, const Form& a, int64_t c, Form* out) const {
    const int64_t lo = floor_div(a.range.lo, c), hi = floor_div(a.range.hi, c);
    Form quotient, rest;
    quotient.linear = rest.linear = false;
    if (lo == hi) {
      quotient = constant(lo);
      rest = a;
      if (rest.linear) rest.form.base -= lo * c;
    } else if (a.linear) {
      Interval range{floor_mod(a.form.base, c), floor_mod(a.form.base, c)};
      Linear high, low;
      high.base = floor_div(a.form.base, c);
      low.base = range.lo;
      for (int l = 0; l < kMaxLetters; ++l) {
        const int64_t k = a.form.coef[l];
        if (k % c == 0) {
          high.coef[l] = k / c;
        } else {
          low.coef[l] = k;
          const Interval r = letters_[l];
          range.lo += std::min(k * r.lo, k * r.hi);
          range.hi += std::max(k * r.lo, k * r.hi);
        }
      }
      if (floor_div(range.lo, c) == floor_div(range.hi, c)) {
        const int64_t carry = floor_div(range.lo, c);
        high.base += carry;
        low.base -= carry * c;
        quotient.linear = rest.linear = true;
        quotient.form = high;
        rest.form = low;
      }
    }
    *out = op == ExprOp::div ? quotient : rest;
    if (op == ExprOp::div) {
      out->range = {lo, hi};
    } else if (lo == hi) {
      out->range = {a.range.lo - lo * c, a.range.hi - lo * c};
    } else {
      out->range = {0, c - 1};
    }
    return true;
  }

  const Program& program_;
  const int64_t* dims_;
  const Interval* letters_;
};

}  // namespace

int64_t evaluate(const Program& program, const int64_t* dims, const int64_t* letters, ExprId id) {
  const ExprNode& node = program.exprs[static_cast<size_t>(id)];
  if (node.op == ExprOp::number) return node.value;
  if (node.op == ExprOp::dim) return dims[node.value];
  if (node.op == ExprOp::letter) return letters[node.value];
  const int64_t a = evaluate(program, dims, letters, node.a);
  if (node.op == ExprOp::neg) return -a;
  const int64_t b = evaluate(program, dims, letters, node.b);
  switch (node.op) {
    case ExprOp::add: return a + b;
    case ExprOp::sub: return a - b;
    case ExprOp::mul: return a * b;
    case ExprOp::div: return floor_div(a, b);
    case ExprOp::mod: return floor_mod(a, b);
    case ExprOp::min: return std::min(a, b);
    default: return std::max(a, b);
  }
}

bool expr_range(const Program& program, const int64_t* dims, const Interval* letters, ExprId expr,
                Interval* range) {
  Form form;
  if (!Analysis(program, dims, letters).run(expr, &form)) return false;
  *range = form.range;
  return true;
}

bool expr_linear(const Program& program, const int64_t* dims, const Interval* letters, ExprId expr,
                 Linear* linear) {
  Form form;
  if (!Analysis(program, dims, letters).run(expr, &form) || !form.linear) return false;
  *linear = form.form;
  return true;
}

}  // namespace onnx_fusion
