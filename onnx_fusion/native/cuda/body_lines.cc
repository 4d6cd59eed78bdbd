// Loads, stores and the rest of a body's lines.
#include "cuda/body.h"

#include <algorithm>
#include <cstdlib>

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kVector = 16;  // bytes of one access
constexpr int kMostLanes = 8;
constexpr int64_t kMostKept = 128;   // bytes of rows in a thread's registers
constexpr size_t kMostValues = 128;  // of all lanes: more would spill

}  // namespace

void Body::define(int line, int lane, const std::string& value) {
  const std::string what = by_lane(line) ? "v" + std::to_string(line) + "_" + std::to_string(lane)
                                         : "v" + std::to_string(line);
  text.line(std::string("const ") + type_name(nest.dtype(line)) + " " + what + " = " + value + ";");
}

void Body::print(int line) {
  const Instruction& instruction = nest.at(line);
  const size_t i = static_cast<size_t>(line);
  const int count = by_lane(line) ? lanes : 1;
  if (nest.is_reduction(line)) {
    define(line, 0, nothing_value(instruction));
  } else if (instruction.op == Op::op_load) {
    print_load(line);
  } else if (instruction.op == Op::op_select) {
    print_select(line);
  } else if (instruction.op == Op::op_index) {
    for (int lane = 0; lane < count; ++lane) {
      define(line, lane,
             "(long long)(" +
                 (nest.stage.is_linear[i] && narrow(instruction.expr)
                      ? linear(nest.stage.indices[i], static_program(), lane)
                      : expression(instruction.expr, lane, narrow(instruction.expr))) +
                 ")");
    }
  } else {
    const std::vector<int> from = nest.needs(line);
    for (int lane = 0; lane < count; ++lane) {
      std::vector<std::string> operands;
      for (int source : from) operands.push_back(name(source, lane));
      std::string value;
      if (instruction.op == Op::op_const) {
        value = literal(instruction.dtype, instruction.literal);
      } else if (instruction.op == Op::op_cast) {
        value = convert(nest.dtype(from[0]), instruction.dtype, operands[0]);
      } else if (instruction.op == Op::op_where) {
        value = operands[0] + " ? " + operands[1] + " : " + operands[2];
      } else {
        value = express(instruction.op, operands);
      }
      define(line, lane, value);
    }
  }
  give(line, "v" + std::to_string(line), by_lane(line));
}

void Body::print_select(int line) {
  const std::vector<int> from = nest.needs(line);
  const char* const signs[] = {" < ", " <= ", " == "};
  for (int lane = 0; lane < (by_lane(line) ? lanes : 1); ++lane) {
    std::string holds;
    for (const Condition& cond : nest.conditions[static_cast<size_t>(line)]) {
      const bool is_narrow = narrow(cond.a) && narrow(cond.b);
      const std::string sign = signs[static_cast<size_t>(cond.op)];
      const std::string test =
          cond.linear && is_narrow
              ? linear(cond.form, static_program(), lane) + sign + "0"
              : expression(cond.a, lane, is_narrow) + sign + expression(cond.b, lane, is_narrow);
      holds += (holds.empty() ? "" : " && ") + test;
    }
    define(line, lane, "(" + holds + ") ? " + name(from[0], lane) + " : " + name(from[1], lane));
  }
}

// Do `lanes` neighbours along the lane letter lie in memory as vectors do?
bool Body::aligned(const Access& access) const {
  if (lanes == 1 || access.address.coef[lane_letter] != 1) return false;
  const Tensor& tensor = nest.bound.program->tensors[static_cast<size_t>(access.tensor)];
  if (!memory_aligned && tensor.kind != TensorKind::temp) return false;
  if (access.address.base % lanes != 0) return false;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (l != lane_letter && access.address.coef[l] % lanes != 0) return false;
  }
  for (const Guard& guard : access.guards) {
    if (guard.form.coef[lane_letter] != 0) return false;
  }
  for (const Computed& index : access.computed) {
    if (index.stride % lanes != 0 ||
        (expr_letters(*nest.bound.program, index.expr) >> lane_letter & 1)) {
      return false;
    }
  }
  for (const Indirect& index : access.indirect) {
    if (index.stride % lanes != 0 || by_lane(index.line)) return false;
  }
  return true;
}

void Body::keep_rows(const std::vector<int>& loads, LetterSet over, const Team& team) {
  const bool vectors = lanes > 1 && (over >> lane_letter & 1);
  if (lanes > 1 && !vectors) return;
  const int64_t runs = nest.points(over) / lanes;
  int64_t turns = (runs + team.threads - 1) / team.threads;
  if (!nest.all_fixed(over)) {  // few texts for many lengths
    int64_t power = 1;
    while (power < turns) power *= 2;
    turns = power;
  }
  std::vector<int> first;
  int64_t bytes = 0;
  const auto alike = [&](int a, int b) {
    const Access &x = nest.access[static_cast<size_t>(a)], &y = nest.access[static_cast<size_t>(b)];
    return x.tensor == y.tensor && x.address.base == y.address.base &&
           std::equal(x.address.coef, x.address.coef + kMaxLetters, y.address.coef);
  };
  for (int line : loads) {
    const int64_t size = static_cast<int64_t>(dtype_size(nest.dtype(line)));
    const Access& access = nest.access[static_cast<size_t>(line)];
    if (!access.plain() || (vectors && (!aligned(access) || size * lanes > kVector))) continue;
    std::string& name = kept_[static_cast<size_t>(line)];
    for (int other : first) {
      if (alike(line, other)) name = kept_[static_cast<size_t>(other)];
    }
    if (!name.empty() || bytes + size * lanes * turns > kMostKept) continue;
    bytes += size * lanes * turns;
    name = text.fresh("kept");
    first.push_back(line);
  }
  if (first.empty()) return;
  const auto type = [&](int line) {
    const std::string element = type_name(nest.dtype(line));
    return lanes > 1 ? "Pack<" + element + ", " + std::to_string(lanes) + ">" : element;
  };
  for (int line : first) {
    text.line(type(line) + " " + kept_[static_cast<size_t>(line)] + "[" + std::to_string(turns) +
              "];");
  }
  turns_ = static_cast<int>(turns);
  const int blocks = loop(over, team);
  for (int line : first) {
    const Access& access = nest.access[static_cast<size_t>(line)];
    const std::string memory = text.pointer(access.tensor, false), place = offset(access, 0);
    text.line(kept_[static_cast<size_t>(line)] + "[turn] = " +
              (lanes > 1 ? "*(const " + type(line) + "*)(" + memory + " + " + place + ")"
                         : memory + "[" + place + "]") +
              ";");
  }
  for (int i = 0; i < blocks; ++i) leave();
}

void Body::print_load(int line) {
  const Instruction& instruction = nest.at(line);
  if (const std::string& kept = kept_[static_cast<size_t>(line)]; !kept.empty()) {
    for (int lane = 0; lane < lanes; ++lane) {
      define(line, lane, kept + "[turn]" + (lanes > 1 ? ".at[" + std::to_string(lane) + "]" : ""));
    }
    return;
  }
  const Access& access = nest.access[static_cast<size_t>(line)];
  const std::string memory = text.pointer(access.tensor, false);
  const std::string otherwise = instruction.has_else
                                    ? literal(instruction.dtype, instruction.literal)
                                    : convert(DType::i32, instruction.dtype, "0");
  const int count = by_lane(line) ? lanes : 1;
  const bool vector = by_lane(line) && aligned(access);
  for (int lane = 0; lane < (vector ? 1 : count); ++lane) {
    std::string inside = condition(access, lane);
    if (!access.indirect.empty() && !instruction.has_else) {
      const std::string flag = text.fresh("in");
      text.line("const bool " + flag + " = " + inside + ";");
      text.line("if (!" + flag + ") *" + text.failure() + " = " + std::to_string(instruction.line) +
                ";");
      inside = flag;
    }
    const std::string place = offset(access, lane);
    if (!vector) {
      const std::string read = memory + "[" + place + "]";
      define(line, lane, inside.empty() ? read : inside + " ? " + read + " : " + otherwise);
      continue;
    }
    const int64_t size = static_cast<int64_t>(dtype_size(instruction.dtype));
    const int per = static_cast<int>(std::min<int64_t>(lanes, kVector / size));
    const std::string pack =
        std::string("Pack<") + type_name(instruction.dtype) + ", " + std::to_string(per) + ">";
    std::string from = place;
    if (lanes > per || !inside.empty()) {
      from = text.fresh("o");
      text.line(std::string("const ") + text.index() + " " + from + " = " + place + ";");
    }
    for (int part = 0; part < lanes / per; ++part) {
      const std::string name = "p" + std::to_string(line) + "_" + std::to_string(part);
      const std::string address = "(const " + pack + "*)(" + memory + " + " + from +
                                  (part > 0 ? " + " + std::to_string(part * per) : "") + ")";
      if (inside.empty()) {
        text.line("const " + pack + " " + name + " = *" + address + ";");
      } else {
        std::string fill;
        for (int e = 0; e < per; ++e) fill += (e > 0 ? ", " : "") + otherwise;
        text.line(pack + " " + name + " = {{" + fill + "}};");
        text.line("if (" + inside + ") " + name + " = *" + address + ";");
      }
    }
    for (int e = 0; e < lanes; ++e) {
      define(line, e,
             "p" + std::to_string(line) + "_" + std::to_string(e / per) + ".at[" +
                 std::to_string(e % per) + "]");
    }
  }
}

void Body::store(int line) {
  const Instruction& instruction = nest.at(line);
  const Access& access = nest.access[static_cast<size_t>(line)];
  const int value = nest.needs(line)[0];
  need(value);
  const std::string memory = text.pointer(access.tensor, true);
  const bool many = lanes > 1 && (nest.letters[static_cast<size_t>(line)] >> lane_letter & 1);
  if (!many || !aligned(access)) {
    for (int lane = 0; lane < (many ? lanes : 1); ++lane) {
      text.line(memory + "[" + offset(access, lane) + "] = " + name(value, lane) + ";");
    }
    return;
  }
  const int64_t size = static_cast<int64_t>(dtype_size(instruction.dtype));
  const int per = static_cast<int>(std::min<int64_t>(lanes, kVector / size));
  const std::string pack =
      std::string("Pack<") + type_name(instruction.dtype) + ", " + std::to_string(per) + ">";
  std::string place = offset(access, 0);
  if (lanes > per) {
    const std::string from = text.fresh("o");
    text.line(std::string("const ") + text.index() + " " + from + " = " + place + ";");
    place = from;
  }
  for (int part = 0; part < lanes / per; ++part) {
    std::string list;
    for (int e = 0; e < per; ++e) list += (e > 0 ? ", " : "") + name(value, part * per + e);
    text.line("*(" + pack + "*)(" + memory + " + " + place +
              (part > 0 ? " + " + std::to_string(part * per) : "") + ") = {{" + list + "}};");
  }
}

int choose_lanes(Body& body, int letter) {
  const Nest& nest = body.nest;
  int64_t smallest = 16;
  const size_t values = static_cast<size_t>(std::count(nest.live.begin(), nest.live.end(), 1));
  for (size_t i = 0; i < nest.lines(); ++i) {
    const Access& access = nest.access[i];
    if (access.tensor < 0 || access.address.coef[letter] != 1) continue;
    const BoundTensor& tensor = nest.bound.tensors[static_cast<size_t>(access.tensor)];
    smallest = std::min(smallest, static_cast<int64_t>(dtype_size(tensor.dtype)));
  }
  int lanes = static_cast<int>(std::min<int64_t>(kMostLanes, 16 / smallest));
  for (; lanes > 1; lanes /= 2) {
    if (nest.extents[letter] % lanes != 0 || values * static_cast<size_t>(lanes) > kMostValues) {
      continue;
    }
    body.lanes = lanes;
    body.lane_letter = letter;
    size_t runs = 0, rest = 0;
    for (size_t i = 0; i < nest.lines(); ++i) {
      const Access& access = nest.access[i];
      if (access.tensor < 0 || access.address.coef[letter] == 0) continue;
      (body.aligned(access) ? runs : rest) += 1;
    }
    if (runs > 0 && rest <= runs) break;
  }
  body.lanes = lanes;
  body.lane_letter = lanes > 1 ? letter : -1;
  return lanes;
}

}  // namespace onnx_fusion::cuda
