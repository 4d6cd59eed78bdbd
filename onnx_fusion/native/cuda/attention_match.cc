#include <algorithm>

#include "cuda/attention_tile.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kMostDepth = 128;  // of a head

int past_cast(const Nest& nest, int line) {
  return nest.at(line).op == Op::op_cast ? nest.needs(line)[0] : line;
}

// Do these groups of letters, slowest first, number a tensor's elements without gaps?
bool dense(const Nest& nest, const Access& access, const std::vector<LetterSet>& groups) {
  if (!access.plain() || access.address.base != 0) return false;
  int64_t step = 1;
  for (size_t g = groups.size(); g-- > 0;) {
    const std::vector<int> letters = nest.order(groups[g], access);
    for (size_t k = letters.size(); k-- > 0;) {
      if (access.address.coef[letters[k]] != step) return false;
      step *= nest.extents[letters[k]];
    }
  }
  return true;
}

int load_of(const Nest& nest, int tensor) {
  int found = -1;
  for (size_t i = 0; i < nest.lines(); ++i) {
    const int line = static_cast<int>(i);
    if (!nest.is_live(line) || nest.at(line).op != Op::op_load || nest.at(line).tensor != tensor) {
      continue;
    }
    if (found >= 0) return -1;
    found = line;
  }
  return found;
}

bool handed_only(const BoundProgram& bound, int tensor, const Nest& from, const Nest& to) {
  if (bound.program->tensors[static_cast<size_t>(tensor)].kind != TensorKind::temp) return false;
  for (const BoundStage& stage : bound.stages) {
    for (const Instruction& line : stage.stage->body) {
      if (line.tensor == tensor && &stage != &from.stage && &stage != &to.stage) return false;
    }
  }
  return true;
}

// exp(x - max x) / sum of it, over one set of letters: the line of x, or -1.
int logits_of(const Nest& nest, int store, LetterSet* reduced) {
  const auto is = [&](int line, Op op) { return nest.at(line).op == op; };
  const int quotient = past_cast(nest, nest.needs(store)[0]);
  if (!is(quotient, Op::op_div)) return -1;
  const int exp = nest.needs(quotient)[0], sum = nest.needs(quotient)[1];
  if (!is(exp, Op::op_exp) || !is(sum, Op::op_reduce_sum) || nest.needs(sum)[0] != exp) return -1;
  const int shifted = nest.needs(exp)[0];
  if (!is(shifted, Op::op_sub)) return -1;
  const int x = nest.needs(shifted)[0], top = nest.needs(shifted)[1];
  if (!is(top, Op::op_reduce_max) || nest.needs(top)[0] != x || nest.dtype(x) != DType::f32) {
    return -1;
  }
  *reduced = nest.over[static_cast<size_t>(sum)];
  if (nest.over[static_cast<size_t>(top)] != *reduced || *reduced == 0) return -1;
  return nest.level[static_cast<size_t>(x)] == 0 ? x : -1;
}

}  // namespace

bool find_attention(const Nest& scores, const Nest& softmax, const Nest& result,
                    const Device& device, Attention* out) {
  Attention& a = *out;
  // In a strict program the division comes before the second product.
  if (scores.bound.program->strict) return false;
  if (scores.stores.size() != 1 || softmax.stores.size() != 1) return false;
  const size_t store = static_cast<size_t>(scores.stores[0]),
               passed = static_cast<size_t>(softmax.stores[0]);
  const Access& to = scores.access[store];
  const Access& weights = softmax.access[passed];
  a.scores_load = load_of(softmax, to.tensor);
  a.weights_load = load_of(result, weights.tensor);
  if (a.scores_load < 0 || a.weights_load < 0) return false;
  if (!handed_only(scores.bound, to.tensor, scores, softmax) ||
      !handed_only(scores.bound, weights.tensor, softmax, result)) {
    return false;
  }
  if (!find_product(scores, device, &a.scores) || !find_product(result, device, &a.result)) {
    return false;
  }
  const Product &p = a.scores, &q = a.result;
  if (p.unit != q.unit) return false;
  LetterSet reduced = 0;
  a.logits = logits_of(softmax, softmax.stores[0], &reduced);
  if (a.logits < 0 || past_cast(result, q.a.line) != a.weights_load) return false;
  const LetterSet kept = static_cast<LetterSet>(softmax.letters[passed] & ~reduced);
  if (!dense(scores, to, {p.batch, p.rows, p.columns}) ||
      !dense(softmax, softmax.access[static_cast<size_t>(a.scores_load)], {kept, reduced}) ||
      !dense(softmax, weights, {kept, reduced}) ||
      !dense(result, result.access[static_cast<size_t>(a.weights_load)],
             {q.batch, q.rows, q.sum})) {
    return false;
  }
  // The last stage's letters in the order that the softmax has them in memory.
  const Access& from = result.access[static_cast<size_t>(a.weights_load)];
  a.result.batch_order = result.order(q.batch, from);
  a.result.a.own = result.order(q.rows, from);
  if (q.b.sum.size() > 1) return false;
  return p.batches == q.batches && p.m == q.m && p.n == q.k && softmax.points(reduced) == p.n &&
         p.k <= kMostDepth && q.n <= kMostDepth &&
         AttentionTile(a, device).shared_bytes() <= device.shared_bytes;
}

}  // namespace onnx_fusion::cuda
