#include "cuda/body.h"

#include <algorithm>
#include <cstdlib>

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kUnrolled = 9;  // positions of a loop that is unrolled, a 3x3 window's

}  // namespace

Body::Body(const Nest& from, Text& to) : nest(from), text(to) {
  names_.resize(nest.lines());
  kept_.resize(nest.lines());
  with_lanes_.assign(nest.lines(), 0);
  for (std::string& name : letter) name = "0";
}

bool Body::by_lane(int line) const {
  return lanes > 1 && (nest.letters[static_cast<size_t>(line)] >> lane_letter & 1);
}

std::string Body::name(int line, int lane) const {
  const size_t i = static_cast<size_t>(line);
  return with_lanes_[i] ? names_[i] + "_" + std::to_string(lane) : names_[i];
}

void Body::give(int line, const std::string& name, bool with_lanes) {
  const size_t i = static_cast<size_t>(line);
  names_[i] = name;
  with_lanes_[i] = with_lanes;
  printed_.push_back(line);
}

void Body::enter(const std::string& head) {
  text.open(head);
  marks_.push_back(printed_.size());
}

void Body::leave() {
  text.close();
  for (size_t i = marks_.back(); i < printed_.size(); ++i) {
    names_[static_cast<size_t>(printed_[i])].clear();
  }
  printed_.resize(marks_.back());
  marks_.pop_back();
}

void Body::need(int line) {
  if (has(line)) return;
  if (nest.is_reduction(line) && !nest.nothing(line)) {
    std::vector<int> together;
    const size_t i = static_cast<size_t>(line);
    for (size_t j = 0; j < nest.lines(); ++j) {
      const int other = static_cast<int>(j);
      if (nest.reduces(other) && !nest.nothing(other) && !has(other) &&
          nest.over[j] == nest.over[i] && nest.level[j] == nest.level[i] &&
          nest.letters[j] == nest.letters[i]) {
        together.push_back(other);
      }
    }
    reduce(together, Team());
    return;
  }
  for (int from : nest.needs(line)) need(from);
  print(line);
}

void Body::hoist(int line, LetterSet inner) {
  if (has(line)) return;
  if (!(nest.letters[static_cast<size_t>(line)] & inner)) {
    need(line);
    return;
  }
  inner |= nest.over[static_cast<size_t>(line)];
  for (int from : nest.needs(line)) hoist(from, inner);
}

int Body::loop(LetterSet over, const Team& team) {
  std::vector<int> found;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (over >> l & 1) found.push_back(l);
  }
  if (lanes > 1 && (over >> lane_letter & 1)) {
    found.erase(std::find(found.begin(), found.end(), lane_letter));
    found.push_back(lane_letter);
  }
  const std::string type = text.index();
  const auto step = [&](int l) { return l == lane_letter ? lanes : 1; };
  if (team.threads == 1) {
    for (int l : found) {
      const std::string name = "a" + std::to_string(l), by = std::to_string(step(l));
      letter[l] = name;
      const bool small = nest.fixed[l] && nest.extents[l] / step(l) <= kUnrolled;
      if (nest.fixed[l]) text.line(small ? "#pragma unroll" : "#pragma unroll 4");
      enter("for (" + type + " " + name + " = 0; " + name + " < " +
            text.number(nest.extents[l], nest.fixed[l]) + "; " + name + " += " + by + ")");
    }
    return static_cast<int>(found.size());
  }
  int64_t count = 1;
  for (int l : found) count *= nest.extents[l] / step(l);
  const std::string flat = text.fresh("r");
  if (turns_ > 0) {
    text.line("#pragma unroll");
    enter("for (int turn = 0; turn < " + std::to_string(turns_) + "; ++turn)");
    text.line("const " + type + " " + flat + " = " + team.rank + " + turn * " +
              std::to_string(team.threads) + ";");
    enter("if (" + flat + " < " + text.number(count, false) + ")");
    decompose(flat, found, found.empty() ? 1 : step(found.back()));
    return 2;
  }
  const std::string end = team.end.empty() ? text.number(count, false) : team.end;
  enter("for (" + type + " " + flat + " = " + team.rank + "; " + flat + " < " + end + "; " + flat +
        " += " + std::to_string(team.threads) + ")");
  decompose(flat, found, found.empty() ? 1 : step(found.back()));
  return 1;
}

void Body::decompose(const std::string& flat, const std::vector<int>& letters, int fastest_step) {
  const std::string type = text.index();
  std::string rest = flat;
  for (size_t k = letters.size(); k-- > 0;) {
    const int l = letters[k];
    const bool fastest = k + 1 == letters.size();
    const int step = fastest ? fastest_step : 1;
    const int64_t extent = nest.extents[l] / step;
    std::string position = rest;
    if (k > 0) {
      const std::string next = text.fresh("q");
      text.line("const " + type + " " + next + " = " + text.quotient(rest, extent, nest.fixed[l]) +
                ";");
      position = rest + " - " + next + " * " + text.number(extent, nest.fixed[l]);
      rest = next;
    }
    if (step > 1) position = "(" + position + ") * " + std::to_string(step);
    letter[l] = "a" + std::to_string(l);
    text.line("const " + type + " " + letter[l] + " = " + position + ";");
  }
}

std::string Team::fold(const Instruction& reduction, const std::string& value) const {
  std::string shared = after;
  const size_t at = shared.find('$');
  if (at != std::string::npos) shared.replace(at, 1, type_name(reduction.dtype));
  return before + fold_name(reduction.op) + "(" + value + shared + ")";
}

void Body::reduce(const std::vector<int>& lines, const Team& team) {
  const LetterSet over = nest.over[static_cast<size_t>(lines[0])];
  const bool folds_lanes = lanes > 1 && (over >> lane_letter & 1);
  for (int line : lines) {
    for (int from : nest.needs(line)) hoist(from, over);
  }
  std::vector<std::string> sums;
  const auto of = [&](size_t i, int lane) {
    return by_lane(lines[i]) ? sums[i] + "_" + std::to_string(lane) : sums[i];
  };
  const auto count = [&](int line) { return by_lane(line) ? lanes : 1; };
  for (int line : lines) {
    sums.push_back(text.fresh("s"));
    for (int lane = 0; lane < count(line); ++lane) {
      text.line(std::string(type_name(nest.dtype(line))) + " " + of(sums.size() - 1, lane) + " = " +
                nothing_value(nest.at(line)) + ";");
    }
  }
  const int blocks = loop(over, team);
  for (int line : lines) {
    for (int from : nest.needs(line)) need(from);
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    const int line = lines[i];
    const std::vector<int> from = nest.needs(line);
    for (int lane = 0; lane < (folds_lanes ? lanes : count(line)); ++lane) {
      const std::string sum = of(i, lane), a = name(from[0], lane);
      if (nest.at(line).op == Op::op_dot) {
        text.line(sum + " = fmaf(" + a + ", " + name(from[1], lane) + ", " + sum + ");");
      } else {
        text.line(sum + " = " + fold_functor(nest.at(line).op) + "(" + sum + ", " + a + ");");
      }
    }
  }
  for (int i = 0; i < blocks; ++i) leave();
  for (size_t i = 0; i < lines.size(); ++i) {
    const int line = lines[i];
    if (team.threads > 1) {
      for (int lane = 0; lane < count(line); ++lane) {
        text.line(of(i, lane) + " = " + team.fold(nest.at(line), of(i, lane)) + ";");
      }
    }
    give(line, sums[i], by_lane(line));
  }
}

std::string Body::at(int l, int lane) const {
  if (l != lane_letter || lane == 0) return letter[l];
  return "(" + letter[l] + " + " + std::to_string(lane) + ")";
}

std::string Body::linear(const Linear& form, bool fixed, int lane) const {
  std::string out;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (form.coef[l] == 0 || !(nest.active >> l & 1)) continue;
    const std::string term = text.times(form.coef[l], fixed, at(l, lane));
    if (term.empty()) continue;
    out += out.empty() ? term : term[0] == '-' ? " - " + term.substr(1) : " + " + term;
  }
  if (form.base == 0 && !out.empty()) return out;
  const std::string base = text.number(form.base, fixed);
  if (out.empty()) return base;
  return out + (base[0] == '-' ? " - " + base.substr(1) : " + " + base);
}

std::string Body::index_value(int line, int lane) { return name(line, lane); }

std::string Body::offset(const Access& access, int lane) {
  std::string out = linear(access.address, access.fixed, lane);
  const auto add = [&](const std::string& term) {
    if (term.empty()) return;
    out = out == "0" ? term : out + " + " + term;
  };
  for (const Computed& index : access.computed) {
    add(text.times(index.stride, access.fixed,
                   "(" + expression(index.expr, lane, narrow(index.expr)) + ")"));
  }
  for (const Indirect& index : access.indirect) {
    add(text.times(index.stride, access.fixed,
                   std::string("(") + text.index() + ")" + index_value(index.line, lane)));
  }
  return out;
}

std::string Body::condition(const Access& access, int lane) {
  std::string out;
  const auto add = [&](const std::string& index, int64_t extent, bool cast) {
    const std::string type = cast ? "long long" : text.index();
    const std::string limit = cast ? "(long long)" + text.number(extent, access.fixed)
                                   : text.number(extent, access.fixed);
    out += (out.empty() ? "inside((" : " && inside((") + type + ")(" + index + "), " + limit + ")";
  };
  for (const Guard& guard : access.guards) {
    add(linear(guard.form, access.fixed, lane), guard.extent, text.wide());
  }
  for (const Computed& index : access.computed) {
    if (index.guarded) add(expression(index.expr, lane, narrow(index.expr)), index.extent, true);
  }
  for (const Indirect& index : access.indirect) {
    add(index_value(index.line, lane), index.extent, true);
  }
  return out;
}

// Are the numbers of an expression, and all between, those of an int?
bool Body::narrow(ExprId id) const {
  if (text.wide()) return false;
  Interval box[kMaxLetters], range;
  for (int l = 0; l < kMaxLetters; ++l) box[l] = {0, std::max<int64_t>(nest.extents[l] - 1, 0)};
  const ExprNode& node = nest.bound.program->exprs[static_cast<size_t>(id)];
  if (!expr_range(*nest.bound.program, nest.bound.dims.data(), box, id, &range)) return false;
  if (range.lo < INT32_MIN / 2 || range.hi > INT32_MAX / 2) return false;
  return (node.a < 0 || narrow(node.a)) && (node.b < 0 || narrow(node.b));
}

std::string Body::expression(ExprId id, int lane, bool narrow) {
  const ExprNode& node = nest.bound.program->exprs[static_cast<size_t>(id)];
  const std::string type = narrow ? "int" : "long long";
  const auto wrap = [&](const std::string& what) {
    return narrow || text.wide() ? what : "(long long)" + what;
  };
  if (node.op == ExprOp::number) return wrap(text.number(node.value, true));
  if (node.op == ExprOp::dim) {
    return wrap(text.number(nest.bound.dims[static_cast<size_t>(node.value)], false));
  }
  if (node.op == ExprOp::letter) return wrap(at(static_cast<int>(node.value), lane));
  const std::string a = expression(node.a, lane, narrow);
  if (node.op == ExprOp::neg) return "(-" + a + ")";
  const std::string b = expression(node.b, lane, narrow);
  switch (node.op) {
    case ExprOp::add: return "(" + a + " + " + b + ")";
    case ExprOp::sub: return "(" + a + " - " + b + ")";
    case ExprOp::mul: return "(" + a + " * " + b + ")";
    case ExprOp::min:
    case ExprOp::max:
      return std::string(node.op == ExprOp::min ? "min" : "max") + "((" + type + ")" + a + ", (" +
             type + ")" + b + ")";
    default: break;
  }
  Interval box[kMaxLetters], range{-1, -1}, divisor{-1, -1};
  for (int l = 0; l < kMaxLetters; ++l) box[l] = {0, std::max<int64_t>(nest.extents[l] - 1, 0)};
  expr_range(*nest.bound.program, nest.bound.dims.data(), box, node.a, &range);
  expr_range(*nest.bound.program, nest.bound.dims.data(), box, node.b, &divisor);
  const bool div = node.op == ExprOp::div;
  if (!narrow || range.lo < 0) {
    return std::string(div ? "floor_div((" : "floor_mod((") + type + ")" + a + ", (" + type + ")" +
           b + ")";
  }
  const std::string n = text.fresh("e");
  text.line("const " + type + " " + n + " = " + a + ";");
  const std::string quotient = text.quotient(n, divisor.lo, static_program());
  return div ? quotient : "(" + n + " - " + quotient + " * " + b + ")";
}

}  // namespace onnx_fusion::cuda
