#include "cuda/fuse.h"

#include <algorithm>

namespace onnx_fusion::cuda {
namespace {

constexpr size_t kMostLines = 512;   // of a stage that is made here
constexpr size_t kMostBeside = 64;   // of one whose parts hand nothing to each other
constexpr size_t kMostStages = 64;   // of a program: beyond, pairs are too many to look at

bool equal(const Program& program, ExprId a, ExprId b) {
  if (a < 0 || b < 0) return a == b;
  const ExprNode& x = program.exprs[static_cast<size_t>(a)];
  const ExprNode& y = program.exprs[static_cast<size_t>(b)];
  return x.op == y.op && x.value == y.value && equal(program, x.a, y.a) && equal(program, x.b, y.b);
}

// Stage `second` becomes part of stage `first`.
class Merge {
 public:
  Merge(Program& program, size_t first, size_t second)
      : program_(program), first_(program.stages[first]), second_(program.stages[second]) {
    std::fill(letter_of_, letter_of_ + kMaxLetters, -1);
    index_[0] = first;
    index_[1] = second;
  }

  bool possible();
  void run();

 private:
  const Instruction* store_of(int tensor) const;
  bool handed(const Instruction& load) const {
    return load.op == Op::op_load && store_of(load.tensor);
  }
  bool unify(ExprId load, ExprId store);
  bool meet();
  bool match_rest();
  bool loaded_elsewhere(int tensor) const;
  bool same_rows() const;
  LetterSet mapped(LetterSet letters) const;
  LetterSet reduced(const Stage& stage) const;
  int count(const Stage& stage, bool dots) const;
  ExprId copy(ExprId expr);

  Program& program_;
  Stage& first_;
  const Stage& second_;
  size_t index_[2];
  bool hands_ = false;  // does first store what second loads
  int letter_of_[kMaxLetters];  // second's letters as first's
};

const Instruction* Merge::store_of(int tensor) const {
  for (const Instruction& line : first_.body) {
    if (line.op == Op::op_store && line.tensor == tensor) return &line;
  }
  return nullptr;
}

// Is the load's index the store's, the letters renamed? Names them so.
bool Merge::unify(ExprId load, ExprId store) {
  if (load < 0 || store < 0) return load == store;
  const ExprNode a = program_.exprs[static_cast<size_t>(load)];
  const ExprNode b = program_.exprs[static_cast<size_t>(store)];
  if (a.op != b.op) return false;
  if (a.op != ExprOp::letter) return a.value == b.value && unify(a.a, b.a) && unify(a.b, b.b);
  int& letter = letter_of_[a.value];
  if (letter >= 0) return letter == b.value;
  if (std::find(letter_of_, letter_of_ + kMaxLetters, static_cast<int>(b.value)) !=
      letter_of_ + kMaxLetters) {
    return false;
  }
  letter = static_cast<int>(b.value);
  return equal(program_, second_.letters[static_cast<size_t>(a.value)].extent,
               first_.letters[static_cast<size_t>(b.value)].extent);
}

// Do all loads of what first stores, if any, read it where it is stored?
bool Merge::meet() {
  for (const Instruction& line : second_.body) {
    if (!handed(line)) continue;
    const Instruction& store = *store_of(line.tensor);
    hands_ = true;
    int stores = 0;
    for (const Stage& stage : program_.stages) {
      for (const Instruction& other : stage.body) {
        stores += other.op == Op::op_store && other.tensor == line.tensor;
      }
    }
    if (stores != 1) return false;
    for (size_t d = 0; d < line.map.size(); ++d) {
      if (line.map[d].value >= 0 || !unify(line.map[d].expr, store.map[d].expr)) return false;
    }
  }
  return true;
}

// Letters that no such load has: any of the same extent will do.
bool Merge::match_rest() {
  for (size_t l = 0; l < second_.letters.size(); ++l) {
    const size_t letters = first_.letters.size();
    for (size_t k = 0; k < letters && letter_of_[l] < 0; ++k) {
      const int letter = static_cast<int>((l + k) % letters);  // at the same place, if that fits
      if (std::find(letter_of_, letter_of_ + kMaxLetters, letter) == letter_of_ + kMaxLetters &&
          equal(program_, second_.letters[l].extent,
                first_.letters[static_cast<size_t>(letter)].extent)) {
        letter_of_[l] = letter;
      }
    }
    if (letter_of_[l] < 0) return false;
  }
  return true;
}

LetterSet Merge::mapped(LetterSet letters) const {
  LetterSet out = 0;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (letters >> l & 1) out |= static_cast<LetterSet>(1u << letter_of_[l]);
  }
  return out;
}

LetterSet Merge::reduced(const Stage& stage) const {
  LetterSet out = 0;
  for (const Instruction& line : stage.body) out |= line.over;
  return out;
}

int Merge::count(const Stage& stage, bool dots) const {
  return static_cast<int>(
      std::count_if(stage.body.begin(), stage.body.end(), [&](const Instruction& line) {
        return dots ? line.op == Op::op_dot : op_is_reduction(line.op);
      }));
}

bool Merge::loaded_elsewhere(int tensor) const {
  for (size_t s = 0; s < program_.stages.size(); ++s) {
    if (s == index_[1]) continue;
    for (const Instruction& line : program_.stages[s].body) {
      if (line.op == Op::op_load && line.tensor == tensor) return true;
    }
  }
  return false;
}

// Would all stores that remain run over the same rows? Else the dot or the reductions would be
// computed once for each kind.
bool Merge::same_rows() const {
  const LetterSet own = reduced(first_), other = mapped(reduced(second_));
  if (own != 0 && other != 0 && own != other) return false;
  const LetterSet rows = static_cast<LetterSet>(~(own | other));
  int kept = -1;
  const auto same = [&](LetterSet letters) {
    const int set = letters & rows;
    const bool fits = kept < 0 || kept == set;
    kept = set;
    return fits;
  };
  for (const Instruction& line : first_.body) {
    const bool temp =
        program_.tensors[static_cast<size_t>(std::max(line.tensor, 0))].kind == TensorKind::temp;
    if (line.op != Op::op_store || (temp && !loaded_elsewhere(line.tensor))) continue;
    if (!same(line.letters)) return false;
    if (count(first_, true) > 0 && (line.letters & own)) return false;
  }
  for (const Instruction& line : second_.body) {
    if (line.op == Op::op_store && !same(mapped(line.letters))) return false;
  }
  return true;
}

bool Merge::possible() {
  // Second may come up to first if nothing between stores what it loads.
  for (size_t s = index_[0] + 1; s < index_[1]; ++s) {
    for (const Instruction& store : program_.stages[s].body) {
      if (store.op != Op::op_store) continue;
      for (const Instruction& line : second_.body) {
        if (line.op == Op::op_load && line.tensor == store.tensor) return false;
      }
    }
  }
  if (first_.body.size() + second_.body.size() > kMostLines || count(second_, true) > 0) {
    return false;
  }
  if (!meet()) return false;
  // Points beside points are one launch less, and more loads at once.
  if (!hands_ && (count(first_, true) + count(first_, false) + count(second_, false) > 0 ||
                  first_.letters.size() != second_.letters.size() ||
                  first_.body.size() + second_.body.size() > kMostBeside)) {
    return false;
  }
  const bool dot = count(first_, true) > 0;
  if (dot) {
    if (count(second_, false) > 0) return false;
    LetterSet result = 0;
    for (const Instruction& line : first_.body) {
      if (line.op == Op::op_dot) result = line.letters;
    }
    for (size_t l = 0; l < second_.letters.size(); ++l) {
      if (letter_of_[l] < 0 || !(result >> letter_of_[l] & 1)) return false;
    }
    for (const Instruction& line : second_.body) {
      if (line.op == Op::op_store && mapped(line.letters) != result) return false;
    }
  }
  return match_rest() && same_rows();
}

ExprId Merge::copy(ExprId expr) {
  if (expr < 0) return expr;
  ExprNode node = program_.exprs[static_cast<size_t>(expr)];
  if (node.op == ExprOp::letter) node.value = letter_of_[node.value];
  node.a = copy(node.a);
  node.b = copy(node.b);
  program_.exprs.push_back(node);
  return static_cast<ExprId>(program_.exprs.size()) - 1;
}

void Merge::run() {
  std::vector<int> value_of(second_.values.size(), -1);
  std::vector<int> gone;
  for (const Instruction& line : second_.body) {
    if (handed(line) &&
        program_.tensors[static_cast<size_t>(line.tensor)].kind == TensorKind::temp &&
        !loaded_elsewhere(line.tensor)) {
      gone.push_back(line.tensor);
    }
  }
  std::vector<Instruction> added;
  int k = 0, next = static_cast<int>(first_.values.size());
  for (const Instruction& from : second_.body) {
    if (handed(from)) {
      value_of[static_cast<size_t>(k++)] = store_of(from.tensor)->args[0];
      continue;
    }
    Instruction line = from;
    line.letters = mapped(line.letters);
    line.over = mapped(line.over);
    line.expr = copy(line.expr);
    for (int i = 0; i < line.arg_count; ++i) {
      line.args[i] = value_of[static_cast<size_t>(line.args[i])];
    }
    for (Index& index : line.map) {
      index.expr = copy(index.expr);
      if (index.value >= 0) index.value = value_of[static_cast<size_t>(index.value)];
    }
    for (Cond& cond : line.conds) {
      cond.a = copy(cond.a);
      cond.b = copy(cond.b);
    }
    if (line.op != Op::op_store) value_of[static_cast<size_t>(k++)] = next++;
    added.push_back(std::move(line));
  }
  std::vector<Instruction>& body = first_.body;
  body.erase(std::remove_if(body.begin(), body.end(),
                            [&](const Instruction& line) {
                              return line.op == Op::op_store &&
                                     std::find(gone.begin(), gone.end(), line.tensor) != gone.end();
                            }),
             body.end());
  body.insert(body.end(), added.begin(), added.end());
  first_.values.clear();
  for (size_t i = 0; i < body.size(); ++i) {
    if (body[i].op != Op::op_store) first_.values.push_back(static_cast<int>(i));
  }
  program_.stages.erase(program_.stages.begin() + static_cast<std::ptrdiff_t>(index_[1]));
}

// Forgets temps that no stage stores.
void drop_temps(Program& program) {
  std::vector<int> place(program.tensors.size());
  std::vector<Tensor> kept;
  size_t temps = 0;
  for (size_t t = 0; t < program.tensors.size(); ++t) {
    bool used = program.tensors[t].kind != TensorKind::temp;
    for (const Stage& stage : program.stages) {
      for (const Instruction& line : stage.body) used = used || line.tensor == static_cast<int>(t);
    }
    place[t] = static_cast<int>(kept.size());
    if (!used) continue;
    temps += program.tensors[t].kind == TensorKind::temp;
    kept.push_back(program.tensors[t]);
  }
  program.tensors = std::move(kept);
  program.temps = temps;
  for (Stage& stage : program.stages) {
    for (Instruction& line : stage.body) {
      if (line.tensor >= 0) line.tensor = place[static_cast<size_t>(line.tensor)];
    }
  }
}

}  // namespace

Program fuse(Program program) {
  for (bool again = program.stages.size() <= kMostStages; again;) {
    again = false;
    for (size_t a = 0; a < program.stages.size() && !again; ++a) {
      for (size_t b = a + 1; b < program.stages.size() && !again; ++b) {
        Merge merge(program, a, b);
        if (!merge.possible()) continue;
        merge.run();
        again = true;
      }
    }
  }
  drop_temps(program);
  narrow_temps(&program);
  return program;
}

}  // namespace onnx_fusion::cuda
