#include "cuda/nest.h"

#include <algorithm>
#include <cstdlib>

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kNarrow = int64_t{1} << 31;

int64_t reach(const Linear& form, const int64_t* extents) {
  int64_t sum = std::abs(form.base);
  for (int l = 0; l < kMaxLetters; ++l) {
    if (form.coef[l] != 0) sum += std::abs(form.coef[l]) * std::max<int64_t>(extents[l] - 1, 1);
  }
  return sum;
}

}  // namespace

Nest::Nest(const BoundProgram& program, size_t index, std::vector<int> lines, bool apart)
    : bound(program), stage(program.stages[index]), stores(std::move(lines)) {
  const size_t count = stage.stage->body.size();
  live.assign(count, 0);
  letters.assign(count, 0);
  over.assign(count, 0);
  level.assign(count, 0);
  access.resize(count);
  conditions.resize(count);
  for (int l = 0; l < kMaxLetters; ++l) {
    const bool used = static_cast<size_t>(l) < stage.stage->letters.size();
    extents[l] = used ? stage.extents[l] : 1;
    fixed[l] = !used || is_fixed(stage.stage->letters[static_cast<size_t>(l)].extent);
    box_[l] = {0, extents[l] - 1};
    if (extents[l] > 1) active |= static_cast<LetterSet>(1u << l);
  }
  resolve();
  mark();
  for (size_t i = 0; i < count; ++i) {
    if (live[i]) analyse(static_cast<int>(i));
  }
  if (!apart) merge();
}

int Nest::source(int value) const {
  return taken_[static_cast<size_t>(stage.stage->values[static_cast<size_t>(value)])];
}

bool Nest::nothing(int line) const { return (at(line).over & stage.empty) != 0; }

bool Nest::is_fixed(ExprId id) const {
  if (id < 0) return true;
  const ExprNode& node = bound.program->exprs[static_cast<size_t>(id)];
  return node.op != ExprOp::dim && is_fixed(node.a) && is_fixed(node.b);
}

// A select whose conditions hold, or fail, at every point is one of its sides.
bool Nest::decide(const Instruction& select, int* taken) const {
  bool all = true;
  for (const Cond& cond : select.conds) {
    Interval a, b;
    if (!expr_range(*bound.program, bound.dims.data(), box_, cond.a, &a) ||
        !expr_range(*bound.program, bound.dims.data(), box_, cond.b, &b)) {
      return false;
    }
    const bool lt = cond.op == CondOp::lt, le = cond.op == CondOp::le;
    const bool one = a.lo == a.hi && b.lo == b.hi && a.lo == b.lo;
    const bool holds = lt ? a.hi < b.lo : le ? a.hi <= b.lo : one;
    const bool fails = lt ? a.lo >= b.hi : le ? a.lo > b.hi : a.hi < b.lo || b.hi < a.lo;
    if (fails) {
      *taken = select.args[1];
      return true;
    }
    all = all && holds;
  }
  *taken = select.args[0];
  return all;
}

void Nest::resolve() {
  taken_.resize(lines());
  for (size_t i = 0; i < lines(); ++i) {
    taken_[i] = static_cast<int>(i);
    const Instruction& line = stage.stage->body[i];
    int value;
    if (line.op == Op::op_select && !(line.letters & stage.empty) && decide(line, &value)) {
      taken_[i] = source(value);
    }
  }
}

std::vector<int> Nest::needs(int line) const {
  std::vector<int> lines;
  if (nothing(line)) return lines;
  const Instruction& instruction = at(line);
  for (int k = 0; k < instruction.arg_count; ++k) lines.push_back(source(instruction.args[k]));
  for (const Index& index : instruction.map) {
    if (index.value >= 0) lines.push_back(source(index.value));
  }
  return lines;
}

void Nest::mark() {
  std::vector<int> open = stores;
  while (!open.empty()) {
    const int line = open.back();
    open.pop_back();
    if (live[static_cast<size_t>(line)]) continue;
    live[static_cast<size_t>(line)] = 1;
    for (int next : needs(line)) open.push_back(next);
  }
}

void Nest::locate(int line, Access* out) {
  const Instruction& instruction = at(line);
  const BoundMap& map = stage.maps[static_cast<size_t>(line)];
  const Tensor& tensor = bound.program->tensors[static_cast<size_t>(instruction.tensor)];
  out->tensor = instruction.tensor;
  out->fixed = true;
  for (size_t d = 0; d < map.dims.size(); ++d) {
    const BoundIndex& index = map.dims[d];
    const bool slowest = tensor.order[0] == d;
    if (!is_fixed(index.expr) || ((!slowest || index.guarded) && !is_fixed(tensor.shape[d]))) {
      out->fixed = false;
    }
    if (index.value >= 0) {
      out->indirect.push_back({source(index.value), index.stride, index.extent});
    } else if (index.linear) {
      out->address.base += index.form.base * index.stride;
      for (int l = 0; l < kMaxLetters; ++l) {
        out->address.coef[l] += index.form.coef[l] * index.stride;
      }
      if (index.guarded) out->guards.push_back({index.form, index.extent});
    } else {
      out->computed.push_back({index.expr, index.stride, index.extent, index.guarded});
      apart_ |= expr_letters(*bound.program, index.expr);
    }
  }
}

void Nest::analyse(int line) {
  const size_t i = static_cast<size_t>(line);
  const Instruction& instruction = at(line);
  if (nothing(line)) return;
  LetterSet set = 0;
  for (int from : needs(line)) {
    set |= letters[static_cast<size_t>(from)];
    level[i] = std::max(level[i], level[static_cast<size_t>(from)]);
  }
  const auto uses = [&](const Linear& form) {
    for (int l = 0; l < kMaxLetters; ++l) {
      if (form.coef[l] != 0) set |= static_cast<LetterSet>(1u << l);
    }
  };
  const auto expression = [&](ExprId expr) {
    const LetterSet used = expr_letters(*bound.program, expr);
    set |= used;
    apart_ |= used;
  };
  if (instruction.op == Op::op_load || instruction.op == Op::op_store) {
    Access& to = access[i];
    locate(line, &to);
    uses(to.address);
    for (const Guard& guard : to.guards) uses(guard.form);
    for (const Computed& index : to.computed) expression(index.expr);
  } else if (instruction.op == Op::op_index) {
    if (stage.is_linear[i]) {
      uses(stage.indices[i]);
    } else {
      expression(instruction.expr);
    }
    apart_ |= expr_letters(*bound.program, instruction.expr);
  } else if (instruction.op == Op::op_select) {
    for (size_t c = 0; c < instruction.conds.size(); ++c) {
      const BoundCond& cond = stage.conds[i][c];
      const Cond& text = instruction.conds[c];
      conditions[i].push_back({cond.linear, cond.form, text.a, text.b, text.op});
      if (cond.linear) {
        uses(cond.form);
      } else {
        expression(text.a);
        expression(text.b);
      }
    }
  } else if (is_reduction(line)) {
    over[i] = instruction.over & active;
    set &= static_cast<LetterSet>(~instruction.over);
    ++level[i];
  }
  letters[i] = set & active;
  if (instruction.op == Op::op_store) letters[i] = instruction.letters & active;
}

template <class F>
void Nest::each_form(F visit) {
  for (size_t i = 0; i < lines(); ++i) {
    if (!live[i]) continue;
    visit(access[i].address);
    for (Guard& guard : access[i].guards) visit(guard.form);
    for (Condition& cond : conditions[i]) {
      if (cond.linear) visit(cond.form);
    }
  }
}

template <class F>
void Nest::each_form(F visit) const {
  const_cast<Nest*>(this)->each_form([&](Linear& form) { visit(const_cast<const Linear&>(form)); });
}

// Is the pair of letters one letter, with a the slower part?
bool Nest::mergeable(int a, int b) const {
  const LetterSet pair = static_cast<LetterSet>(1u << a | 1u << b);
  if (apart_ & pair) return false;
  bool same = true;
  each_form([&](const Linear& form) { same = same && form.coef[a] == form.coef[b] * extents[b]; });
  for (size_t i = 0; i < lines() && same; ++i) {
    if (!live[i]) continue;
    const LetterSet reduced = over[i] & pair, used = letters[i] & pair;
    same = (reduced == 0 || reduced == pair) && (used == 0 || used == pair);
  }
  return same;
}

void Nest::join(int a, int b) {
  extents[b] *= extents[a];
  fixed[b] = fixed[a] && fixed[b];
  extents[a] = 1;
  const LetterSet gone = static_cast<LetterSet>(~(1u << a));
  active &= gone;
  each_form([&](Linear& form) { form.coef[a] = 0; });
  for (size_t i = 0; i < lines(); ++i) {
    letters[i] &= gone;
    over[i] &= gone;
  }
}

void Nest::merge() {
  for (bool again = true; again;) {
    again = false;
    for (int a = 0; a < kMaxLetters && !again; ++a) {
      for (int b = 0; b < kMaxLetters && !again; ++b) {
        if (a == b || !(active >> a & 1) || !(active >> b & 1) || !mergeable(a, b)) continue;
        join(a, b);
        again = true;
      }
    }
  }
}

int64_t Nest::points(LetterSet set) const {
  int64_t count = 1;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (set >> l & 1) count *= extents[l];
  }
  return count;
}

bool Nest::all_fixed(LetterSet set) const {
  for (int l = 0; l < kMaxLetters; ++l) {
    if ((set >> l & 1) && !fixed[l]) return false;
  }
  return true;
}

std::vector<int> Nest::order(LetterSet set, const Access& by) const {
  std::vector<int> found;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (set >> l & 1) found.push_back(l);
  }
  std::stable_sort(found.begin(), found.end(), [&](int a, int b) {
    return std::abs(by.address.coef[a]) > std::abs(by.address.coef[b]);
  });
  return found;
}

bool Nest::wide() const {
  // Positions are counted over what is stored, and over what is reduced, never over both.
  for (size_t i = 0; i < lines(); ++i) {
    const bool store = live[i] && at(static_cast<int>(i)).op == Op::op_store;
    if (points(store ? letters[i] : over[i]) >= kNarrow / 2) return true;
  }
  bool narrow = true;
  each_form([&](const Linear& form) { narrow = narrow && reach(form, extents) < kNarrow; });
  for (size_t i = 0; i < lines(); ++i) {
    if (access[i].tensor < 0) continue;
    narrow = narrow && bound.tensors[static_cast<size_t>(access[i].tensor)].elements < kNarrow;
    for (const Guard& guard : access[i].guards) narrow = narrow && guard.extent < kNarrow;
  }
  return !narrow;
}

std::vector<std::vector<int>> group_stores(const BoundProgram& bound, size_t index) {
  const BoundStage& stage = bound.stages[index];
  std::vector<std::vector<int>> groups;
  std::vector<LetterSet> sets;
  LetterSet reduced = 0;
  for (const Instruction& line : stage.stage->body) reduced |= line.over;
  for (size_t i = 0; i < stage.stage->body.size(); ++i) {
    const Instruction& line = stage.stage->body[i];
    if (line.op != Op::op_store || (line.letters & stage.empty)) continue;
    LetterSet set = line.letters & static_cast<LetterSet>(~reduced);
    for (int l = 0; l < kMaxLetters; ++l) {
      if (stage.extents[l] == 1) set &= static_cast<LetterSet>(~(1u << l));
    }
    const auto same = std::find(sets.begin(), sets.end(), set);
    if (same == sets.end()) {
      sets.push_back(set);
      groups.push_back({static_cast<int>(i)});
    } else {
      groups[static_cast<size_t>(same - sets.begin())].push_back(static_cast<int>(i));
    }
  }
  return groups;
}

}  // namespace onnx_fusion::cuda
