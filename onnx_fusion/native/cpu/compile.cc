// Analysis: what is computed over this box, which loads are linear there, which letters merge.
#include "cpu/compile.h"

#include <algorithm>

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostTabulated = 4096;  // values of an expression

bool form_range(const Linear& form, const Interval* box, Interval* range) {
  *range = {form.base, form.base};
  for (int l = 0; l < kMaxLetters; ++l) {
    if (form.coef[l] == 0) continue;
    const int64_t a = form.coef[l] * box[l].lo, b = form.coef[l] * box[l].hi;
    range->lo += std::min(a, b);
    range->hi += std::max(a, b);
  }
  return true;
}

}  // namespace

Compiler::Compiler(const Slice& slice)
    : slice_(slice),
      bound_(*slice.bound),
      stage_(*slice.bound->stages[slice.stage].stage),
      out_(std::make_unique<TileProgram>()) {
  out_->bound = slice.bound;
  out_->stage = slice.stage;
  const size_t lines = stage_.body.size();
  taken_.resize(lines);
  live_.assign(lines, 0);
  load_of_.assign(lines, -1);
  cond_of_.assign(lines, -1);
  letters_.assign(lines, 0);
  level_.assign(lines, 0);
  slot_of_.assign(lines, -1);
  for (int l = 0; l < kMaxLetters; ++l) out_->letter_lo[l] = slice_.box[l].lo;
  resolve();
  if (slice_.sink >= 0) {
    mark(taken_[static_cast<size_t>(slice_.sink)]);
  }
  for (int line : slice_.stores) {
    mark(line_of(at(line).args[0]));
    store_lines_.push_back(line);
  }
  for (size_t i = 0; i < lines; ++i) {
    if (live_[i]) analyse(static_cast<int>(i));
  }
  merge();
}

int Compiler::line_of(int value) const {
  return taken_[static_cast<size_t>(stage_.values[static_cast<size_t>(value)])];
}

// A select whose conditions hold, or fail, all over the box is one of its sides.
bool Compiler::decide(size_t line, int* taken) const {
  const Instruction& select = stage_.body[line];
  bool all = true;
  for (const Cond& cond : select.conds) {
    Interval a, b;
    const int64_t* dims = bound_.dims.data();
    if (!expr_range(*bound_.program, dims, slice_.box, cond.a, &a) ||
        !expr_range(*bound_.program, dims, slice_.box, cond.b, &b)) {
      return false;
    }
    bool holds, fails;
    if (cond.op == CondOp::lt) {
      holds = a.hi < b.lo;
      fails = a.lo >= b.hi;
    } else if (cond.op == CondOp::le) {
      holds = a.hi <= b.lo;
      fails = a.lo > b.hi;
    } else {
      holds = a.lo == a.hi && b.lo == b.hi && a.lo == b.lo;
      fails = a.hi < b.lo || b.hi < a.lo;
    }
    if (fails) {
      *taken = select.args[1];
      return true;
    }
    all = all && holds;
  }
  *taken = select.args[0];
  return all;
}

void Compiler::resolve() {
  for (size_t i = 0; i < stage_.body.size(); ++i) {
    taken_[i] = static_cast<int>(i);
    int value;
    if (stage_.body[i].op == Op::op_select && decide(i, &value)) taken_[i] = line_of(value);
  }
}

// A reduction over a letter without positions.
bool Compiler::is_nothing(int line) const {
  for (int l = 0; l < kMaxLetters; ++l) {
    if ((at(line).over >> l & 1) && bound_.stages[slice_.stage].extents[l] == 0) return true;
  }
  return false;
}

void Compiler::mark(int line) {
  std::vector<int> open{line};
  while (!open.empty()) {
    const int next = open.back();
    open.pop_back();
    if (live_[static_cast<size_t>(next)]) continue;
    live_[static_cast<size_t>(next)] = 1;
    if (next == slice_.leaf || is_nothing(next)) continue;
    const Instruction& instruction = at(next);
    for (int i = 0; i < instruction.arg_count; ++i) open.push_back(line_of(instruction.args[i]));
    for (const Index& index : instruction.map) {
      if (index.value >= 0) open.push_back(line_of(index.value));
    }
  }
}

ExprTable Compiler::tabulate(ExprId expr, LetterSet letters) const {
  ExprTable table;
  int64_t count = 1, at[kMaxLetters];
  for (int l = kMaxLetters; l-- > 0;) {
    at[l] = slice_.box[l].lo;
    if (!(letters >> l & 1)) continue;
    const int64_t extent = slice_.box[l].hi - slice_.box[l].lo + 1;
    if (count > kMostTabulated / extent) return {};
    table.place.coef[l] = count;
    table.place.base -= count * slice_.box[l].lo;
    count *= extent;
  }
  table.values.resize(static_cast<size_t>(count));
  for (int64_t& value : table.values) {
    value = evaluate(*bound_.program, bound_.dims.data(), at, expr);
    for (int l = kMaxLetters; l-- > 0;) {
      if (!(letters >> l & 1)) continue;
      if (++at[l] <= slice_.box[l].hi) break;
      at[l] = slice_.box[l].lo;
    }
  }
  return table;
}

void Compiler::analyse(int line) {
  const Instruction& instruction = at(line);
  const size_t i = static_cast<size_t>(line);
  const Program& program = *bound_.program;
  const int64_t* dims = bound_.dims.data();
  LetterSet letters = 0;
  int level = 0;
  const auto from = [&](int value) {
    const size_t source = static_cast<size_t>(line_of(value));
    letters |= letters_[source];
    level = std::max(level, level_[source]);
  };
  if (line == slice_.leaf) {
    TileLoad load;
    letters_[i] = instruction.letters;
    load_of_[i] = static_cast<int>(out_->loads.size());
    out_->loads.push_back(load);
    return;
  }
  if (is_nothing(line)) return;
  for (int k = 0; k < instruction.arg_count; ++k) from(instruction.args[k]);
  if (instruction.op == Op::op_load) {
    const BoundTensor& tensor = bound_.tensors[static_cast<size_t>(instruction.tensor)];
    const BoundMap& map = bound_.stages[slice_.stage].maps[i];
    TileLoad load;
    load.tensor = instruction.tensor;
    load.size = size_index(tensor.dtype);
    load.bytes = dtype_size(tensor.dtype);
    load.otherwise = instruction.literal;
    load.has_else = instruction.has_else;
    load.line = instruction.line;
    for (size_t d = 0; d < instruction.map.size(); ++d) {
      const Index& index = instruction.map[d];
      const int64_t extent = tensor.shape[d], stride = tensor.strides[d];
      if (index.value >= 0) {
        from(index.value);
        TileIndirect indirect{};
        indirect.slot = -1;  // until it is emitted
        const int source = stage_.values[static_cast<size_t>(index.value)];
        indirect.wide = at(source).dtype == DType::i64;
        indirect.stride = stride;
        indirect.extent = extent;
        load.indirects.push_back(indirect);
        continue;
      }
      letters |= expr_letters(program, index.expr);
      Interval range;
      Linear form = map.dims[d].form;
      const bool linear = map.dims[d].linear;
      const bool known = linear ? form_range(form, slice_.box, &range)
                                : expr_range(program, dims, slice_.box, index.expr, &range);
      const bool inside = known && range.lo >= 0 && range.hi < extent;
      if (linear || (inside && expr_linear(program, dims, slice_.box, index.expr, &form))) {
        load.address.base += form.base * stride;
        for (int l = 0; l < kMaxLetters; ++l) load.address.coef[l] += form.coef[l] * stride;
        if (!inside) load.guards.push_back({form, extent});
      } else {
        const LetterSet used = expr_letters(program, index.expr);
        load.exprs.push_back({index.expr, used, stride, extent, tabulate(index.expr, used)});
        computed_letters_ |= used;
      }
    }
    load_of_[i] = static_cast<int>(out_->loads.size());
    out_->loads.push_back(std::move(load));
  } else if (instruction.op == Op::op_index || instruction.op == Op::op_select) {
    std::vector<TileCond> conds;
    const auto add = [&](ExprId a, ExprId b, CondOp op) {
      TileCond cond{};
      cond.a = a;
      cond.b = b;
      cond.op = op;
      Linear other;
      cond.linear = expr_linear(program, dims, slice_.box, a, &cond.form) &&
                    (b < 0 || expr_linear(program, dims, slice_.box, b, &other));
      cond.form.base -= other.base;
      for (int l = 0; l < kMaxLetters; ++l) cond.form.coef[l] -= other.coef[l];
      LetterSet used = expr_letters(program, a);
      if (b >= 0) used |= expr_letters(program, b);
      letters |= used;
      if (!cond.linear) computed_letters_ |= used;
      if (!cond.linear && b < 0) cond.table = tabulate(a, used);
      conds.push_back(cond);
    };
    if (instruction.op == Op::op_index) {
      add(instruction.expr, -1, CondOp::eq);
      counted_letters_ |= expr_letters(program, instruction.expr);
    }
    for (const Cond& cond : instruction.conds) add(cond.a, cond.b, cond.op);
    cond_of_[i] = static_cast<int>(out_->conds.size());
    out_->conds.push_back(std::move(conds));
  }
  if (op_is_reduction(instruction.op)) {
    letters &= static_cast<LetterSet>(~instruction.over);
    ++level;
  }
  letters_[i] = letters;
  level_[i] = level;
}

bool Compiler::mergeable(size_t a, size_t b, const std::vector<const Linear*>& forms) const {
  const TileAxis& slow = out_->axes[a];
  const TileAxis& fast = out_->axes[b];
  const int x = slow.letter[slow.letters - 1], y = fast.letter[0];
  if ((computed_letters_ >> x & 1) || (computed_letters_ >> y & 1)) return false;
  if (slow.reduced != fast.reduced) return false;
  for (LetterSet set : slice_.apart) {
    if ((set >> x & 1) != (set >> y & 1)) return false;
  }
  // Coefficients of an axis are those of its fastest letter.
  const int last = fast.letter[fast.letters - 1];
  for (const Linear* form : forms) {
    if (form->coef[x] != form->coef[last] * fast.extent) return false;
  }
  // A value that depends on one of them only would change its letters.
  for (size_t i = 0; i < letters_.size(); ++i) {
    if (live_[i] && (letters_[i] >> x & 1) != (letters_[i] >> last & 1)) return false;
  }
  for (int line : store_lines_) {
    if ((at(line).letters >> x & 1) != (at(line).letters >> last & 1)) return false;
  }
  return true;
}

Linear Compiler::to_axes(const Linear& letters) const {
  Linear form;
  form.base = letters.base;
  for (int l = 0; l < kMaxLetters; ++l) form.base += letters.coef[l] * slice_.box[l].lo;
  for (size_t a = 0; a < out_->axes.size(); ++a) {
    const TileAxis& axis = out_->axes[a];
    form.coef[a] = letters.coef[axis.letter[axis.letters - 1]];
  }
  return form;
}

uint16_t Compiler::axes_of(LetterSet letters) const {
  uint16_t axes = 0;
  for (size_t a = 0; a < out_->axes.size(); ++a) {
    for (int k = 0; k < out_->axes[a].letters; ++k) {
      if (letters >> out_->axes[a].letter[k] & 1) axes |= static_cast<uint16_t>(1u << a);
    }
  }
  return axes;
}

void Compiler::merge() {
  std::vector<TileStore>& stores = out_->stores;
  for (int line : store_lines_) {
    const Instruction& instruction = at(line);
    const BoundMap& map = bound_.stages[slice_.stage].maps[static_cast<size_t>(line)];
    TileStore store{};
    store.tensor = instruction.tensor;
    store.size = size_index(instruction.dtype);
    store.bytes = dtype_size(instruction.dtype);
    store.address = map.address;
    stores.push_back(store);
  }
  std::vector<TileLoad>& loads = out_->loads;
  std::vector<const Linear*> forms;
  for (const TileStore& store : stores) forms.push_back(&store.address);
  for (const TileLoad& load : loads) {
    forms.push_back(&load.address);
    for (const TileGuard& guard : load.guards) forms.push_back(&guard.form);
  }
  for (const std::vector<TileCond>& conds : out_->conds) {
    for (const TileCond& cond : conds) forms.push_back(&cond.form);
  }
  for (uint8_t l : slice_.order) {
    const Interval range = slice_.box[l];
    if (range.lo == range.hi) continue;
    TileAxis axis;
    axis.extent = axis.chunk = range.hi - range.lo + 1;
    axis.letters = 1;
    axis.letter[0] = l;
    axis.reduced = slice_.reduced >> l & 1;
    out_->axes.push_back(axis);
    const size_t last = out_->axes.size() - 1;
    if (last > 0 && mergeable(last - 1, last, forms)) {
      TileAxis& before = out_->axes[last - 1];
      before.letter[before.letters++] = l;
      before.extent *= axis.extent;
      before.chunk = before.extent;
      out_->axes.pop_back();
    }
  }
  // Letters become axes everywhere.
  for (size_t s = 0; s < stores.size(); ++s) {
    stores[s].address = to_axes(stores[s].address);
    stores[s].axes = axes_of(at(store_lines_[s]).letters);
  }
  for (TileLoad& load : loads) {
    load.address = to_axes(load.address);
    for (TileGuard& guard : load.guards) guard.form = to_axes(guard.form);
    for (TileExpr& expr : load.exprs) expr.axes = axes_of(expr.axes);
  }
  for (std::vector<TileCond>& conds : out_->conds) {
    for (TileCond& cond : conds) cond.form = to_axes(cond.form);
  }
  depends_.resize(letters_.size());
  for (size_t i = 0; i < letters_.size(); ++i) depends_[i] = axes_of(letters_[i]);
  for (size_t a = 0; a < out_->axes.size(); ++a) {
    if (out_->axes[a].reduced) reduced_axes_ |= static_cast<uint16_t>(1u << a);
  }
}

uint16_t Compiler::index_axes(size_t load) const {
  uint16_t axes = 0;
  for (size_t i = 0; i < load_of_.size(); ++i) {
    if (load_of_[i] != static_cast<int>(load)) continue;
    for (const Index& index : at(static_cast<int>(i)).map) {
      if (index.value >= 0) axes |= depends_[static_cast<size_t>(line_of(index.value))];
    }
  }
  return axes;
}

size_t Compiler::values() const {
  return static_cast<size_t>(std::count(live_.begin(), live_.end(), 1));
}

int Compiler::levels() const {
  int most = 0;
  for (size_t i = 0; i < level_.size(); ++i) {
    if (live_[i]) most = std::max(most, level_[i]);
  }
  return most;
}

}  // namespace onnx_fusion::cpu
