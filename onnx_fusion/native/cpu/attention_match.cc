#include "cpu/attention_match.h"

#include <algorithm>
#include <vector>

namespace onnx_fusion::cpu {
namespace {

struct Digit {
  int letter;
  int64_t step, extent;
};

bool has_letter(const Axis& axis, int letter) {
  return std::find(axis.letters, axis.letters + axis.count, letter) != axis.letters + axis.count;
}

// One stage's view of the score matrix: row digits, smallest first.
struct View {
  std::vector<Digit> digits;
  Axis keys;
};

// False if the map does not run through all of a dense matrix that is `keys` wide, each element
// once.
bool view_matrix(const BoundStage& stage, const BoundMap& map, int64_t keys, int64_t elements,
                 View* view) {
  if (!map.linear || map.guarded || map.indirect || map.address.base != 0) return false;
  std::vector<Digit> all;
  for (size_t l = 0; l < stage.stage->letters.size(); ++l) {
    const int64_t step = map.address.coef[l], extent = stage.extents[l];
    if (step == 0 || extent == 1) continue;
    if (step < 0) return false;
    all.push_back({static_cast<int>(l), step, extent});
  }
  std::sort(all.begin(), all.end(), [](const Digit& a, const Digit& b) { return a.step < b.step; });
  int64_t next = 1;
  for (Digit digit : all) {
    if (digit.step != next) return false;
    next *= digit.extent;
    if (digit.step < keys) {
      if (next > keys) return false;
      std::copy_backward(view->keys.letters, view->keys.letters + view->keys.count,
                         view->keys.letters + view->keys.count + 1);
      view->keys.letters[0] = static_cast<uint8_t>(digit.letter);
      ++view->keys.count;
    } else {
      digit.step /= keys;
      view->digits.push_back(digit);
    }
  }
  return next == elements;
}

// The one line that stores, and the one that loads `tensor`; -1 if there is none or more.
int only_store(const Stage& stage) {
  int found = -1;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].op != Op::op_store) continue;
    if (found >= 0) return -1;
    found = static_cast<int>(i);
  }
  return found;
}

int only_load(const Stage& stage, int tensor) {
  int found = -1;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].op != Op::op_load || stage.body[i].tensor != tensor) continue;
    if (found >= 0) return -1;
    found = static_cast<int>(i);
  }
  return found;
}

// A temp that one stage stores and only the next one loads.
bool is_between(const Program& program, int tensor, size_t store) {
  if (program.tensors[static_cast<size_t>(tensor)].kind != TensorKind::temp ||
      program.tensors[static_cast<size_t>(tensor)].dtype != DType::f32) {
    return false;
  }
  for (size_t s = 0; s < program.stages.size(); ++s) {
    if (s == store || s == store + 1) continue;
    for (const Instruction& line : program.stages[s].body) {
      if (line.tensor == tensor) return false;
    }
  }
  return true;
}

// The lines that a line's value is made of, without what lies behind `stop`.
std::vector<uint8_t> sources(const Stage& stage, int line, int stop) {
  std::vector<uint8_t> seen(stage.body.size(), 0);
  std::vector<int> open{line};
  while (!open.empty()) {
    const int next = open.back();
    open.pop_back();
    if (seen[static_cast<size_t>(next)]) continue;
    seen[static_cast<size_t>(next)] = 1;
    if (next == stop) continue;
    const Instruction& at = stage.body[static_cast<size_t>(next)];
    for (int i = 0; i < at.arg_count; ++i) {
      open.push_back(stage.values[static_cast<size_t>(at.args[i])]);
    }
    for (const Index& index : at.map) {
      if (index.value >= 0) open.push_back(stage.values[static_cast<size_t>(index.value)]);
    }
  }
  return seen;
}

bool has_reduction(const Stage& stage, const std::vector<uint8_t>& lines) {
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i] && op_is_reduction(stage.body[i].op)) return true;
  }
  return false;
}

// exp(x - max(x)) / sum of it, x made of the loaded score and what is stored of the quotient, both
// pointwise.
bool match_softmax(const Stage& stage, AttentionMatch* match) {
  int highest = -1, sum = -1;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (!op_is_reduction(stage.body[i].op)) continue;
    int* const found = stage.body[i].op == Op::op_reduce_max   ? &highest
                       : stage.body[i].op == Op::op_reduce_sum ? &sum
                                                               : nullptr;
    if (found == nullptr || *found >= 0 || stage.body[i].dtype != DType::f32) return false;
    *found = static_cast<int>(i);
  }
  if (highest < 0 || sum < 0) return false;
  const auto line_of = [&](int from, int arg) {
    return stage.values[static_cast<size_t>(stage.body[static_cast<size_t>(from)].args[arg])];
  };
  match->exponent = line_of(highest, 0);
  const int exp = line_of(sum, 0);
  if (stage.body[static_cast<size_t>(exp)].op != Op::op_exp) return false;
  const int sub = line_of(exp, 0);
  if (stage.body[static_cast<size_t>(sub)].op != Op::op_sub || line_of(sub, 0) != match->exponent ||
      line_of(sub, 1) != highest) {
    return false;
  }
  for (size_t i = 0; i < stage.body.size(); ++i) {
    const int line = static_cast<int>(i);
    if (stage.body[i].op == Op::op_div && line_of(line, 0) == exp && line_of(line, 1) == sum) {
      match->quotient = line;
    }
  }
  if (match->quotient < 0) return false;
  const std::vector<uint8_t> before = sources(stage, match->exponent, match->score_load);
  const std::vector<uint8_t> after = sources(stage, match->weight, match->quotient);
  const size_t load = static_cast<size_t>(match->score_load);
  const size_t quotient = static_cast<size_t>(match->quotient);
  std::vector<uint8_t> pointwise = after;
  pointwise[quotient] = 0;
  return before[load] && !has_reduction(stage, before) && after[quotient] && !after[load] &&
         !has_reduction(stage, pointwise);
}

// True if no digit lies across the ends of [lo, hi), and those inside are free; they become `rows`.
bool fits(const View& view, const Axis* free, int64_t lo, int64_t hi, Axis* rows) {
  rows->count = 0;
  for (size_t d = view.digits.size(); d-- > 0;) {
    const Digit& digit = view.digits[d];
    if (digit.step >= hi || digit.step * digit.extent <= lo) continue;
    if (digit.step < lo || digit.step * digit.extent > hi) return false;
    if (free != nullptr && !has_letter(*free, digit.letter)) return false;
    rows->letters[rows->count++] = static_cast<uint8_t>(digit.letter);
  }
  return true;
}

void set_steps(const View& view, ScoreLetters* letters) {
  letters->keys = view.keys;
  for (const Digit& digit : view.digits) letters->step[digit.letter] = digit.step;
}

// The longest range of row digits that only the query has in the scores, and only the weights have
// in the product.
void choose_rows(const View& scores, const View& softmax, const View& product, const Axis& query,
                 const Axis& weights, AttentionMatch* match) {
  for (size_t first = 0; first < scores.digits.size(); ++first) {
    for (size_t last = first; last < scores.digits.size(); ++last) {
      const int64_t lo = scores.digits[first].step;
      const int64_t hi = scores.digits[last].step * scores.digits[last].extent;
      Axis a, b, c;
      if (hi / lo <= match->row_count || !fits(scores, &query, lo, hi, &a) ||
          !fits(softmax, nullptr, lo, hi, &b) || !fits(product, &weights, lo, hi, &c)) {
        continue;
      }
      match->row_count = hi / lo;
      match->inner = lo;
      match->scores.rows = a;
      match->softmax.rows = b;
      match->product.rows = c;
    }
  }
}

}  // namespace

bool match_attention(const BoundProgram& bound, size_t stage, AttentionMatch* match) {
  const Program& program = *bound.program;
  if (stage + 2 >= program.stages.size()) return false;
  const BoundStage* stages[3];
  for (size_t i = 0; i < 3; ++i) {
    stages[i] = &bound.stages[stage + i];
    if (stages[i]->empty) return false;
  }
  match->scores.stage = stage;
  match->softmax.stage = stage + 1;
  match->product.stage = stage + 2;
  const Stage &first = *stages[0]->stage, &second = *stages[1]->stage, &third = *stages[2]->stage;
  const auto body = [](const Stage& s, int line) -> const Instruction& {
    return s.body[static_cast<size_t>(line)];
  };
  const int score_store = only_store(first), weight_store = only_store(second);
  if (score_store < 0 || weight_store < 0) return false;
  const int score = body(first, score_store).tensor, weight = body(second, weight_store).tensor;
  if (!is_between(program, score, stage) || !is_between(program, weight, stage + 1)) return false;
  match->score_load = only_load(second, score);
  match->weight_load = only_load(third, weight);
  if (match->score_load < 0 || match->weight_load < 0) return false;
  match->score = first.values[static_cast<size_t>(body(first, score_store).args[0])];
  match->weight = second.values[static_cast<size_t>(body(second, weight_store).args[0])];
  if (!match_softmax(second, match)) return false;

  for (const Instruction& line : second.body) {
    if (line.op != Op::op_reduce_max) continue;
    for (int l = 0; l < kMaxLetters; ++l) {
      if (line.over >> l & 1) match->keys *= stages[1]->extents[l];
    }
  }
  const int64_t elements = bound.tensors[static_cast<size_t>(score)].elements;
  if (match->keys < 2 || bound.tensors[static_cast<size_t>(weight)].elements != elements) {
    return false;
  }
  const auto map_of = [&](int s, int line) -> const BoundMap& {
    return stages[s]->maps[static_cast<size_t>(line)];
  };
  View a, b, b_store, c;
  if (!view_matrix(*stages[0], map_of(0, score_store), match->keys, elements, &a) ||
      !view_matrix(*stages[1], map_of(1, match->score_load), match->keys, elements, &b) ||
      !view_matrix(*stages[1], map_of(1, weight_store), match->keys, elements, &b_store) ||
      !view_matrix(*stages[2], map_of(2, match->weight_load), match->keys, elements, &c)) {
    return false;
  }
  const LetterSet reduced = [&] {
    for (const Instruction& line : second.body) {
      if (line.op == Op::op_reduce_max) return line.over;
    }
    return LetterSet{0};
  }();
  for (int k = 0; k < b.keys.count; ++k) {
    if (!(reduced >> b.keys.letters[k] & 1)) return false;
  }
  for (int l = 0; l < kMaxLetters; ++l) {
    if (stages[1]->extents[l] > 1 &&
        map_of(1, match->score_load).address.coef[l] != map_of(1, weight_store).address.coef[l]) {
      return false;
    }
  }

  const DotLetters scores = dot_letters(*stages[0]);
  const auto holds_keys = [&](const DotOperand& x) {
    return std::all_of(a.keys.letters, a.keys.letters + a.keys.count,
                       [&](uint8_t letter) { return has_letter(x.own, letter); });
  };
  const int key = holds_keys(scores.operands[1]) ? 1 : 0;
  if (!holds_keys(scores.operands[key])) return false;
  match->dot = find_dot(first);
  match->key = scores.operands[key].value;
  match->query = scores.operands[1 - key].value;
  match->depth = scores.k;

  const DotLetters product = dot_letters(*stages[2]);
  const auto made_of_weights = [&](const DotOperand& x) {
    const int line = third.values[static_cast<size_t>(x.value)];
    return sources(third, line, -1)[static_cast<size_t>(match->weight_load)] != 0;
  };
  const int side = made_of_weights(product.operands[0]) ? 0 : 1;
  if (!made_of_weights(product.operands[side]) || made_of_weights(product.operands[1 - side])) {
    return false;
  }
  match->weighing = third.values[static_cast<size_t>(product.operands[side].value)];
  match->value = product.operands[1 - side].value;
  match->features = product.operands[1 - side].own;
  if (product.k.count != c.keys.count) return false;
  for (int k = 0; k < c.keys.count; ++k) {
    if (!has_letter(product.k, c.keys.letters[k])) return false;
  }
  const LetterSet known = body(third, match->weight_load).letters;
  for (const Axis* axis : {&product.batch, &product.operands[side].own}) {
    for (int k = 0; k < axis->count; ++k) {
      if (!(known >> axis->letters[k] & 1)) return false;
    }
  }

  set_steps(a, &match->scores);
  set_steps(b, &match->softmax);
  set_steps(c, &match->product);
  choose_rows(a, b, c, scores.operands[1 - key].own, product.operands[side].own, match);
  match->batches = elements / match->keys / match->row_count;
  return true;
}

void locate_batch(const BoundStage& stage, const ScoreLetters& letters, const AttentionMatch& match,
                  int64_t batch, int64_t* fixed) {
  const int64_t row = batch / match.inner * match.inner * match.row_count + batch % match.inner;
  for (int l = 0; l < kMaxLetters; ++l) {
    fixed[l] = letters.step[l] > 0 ? row / letters.step[l] % stage.extents[l] : 0;
  }
}

}  // namespace onnx_fusion::cpu
