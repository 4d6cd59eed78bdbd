#include "cpu/mix.h"

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/tile_walk.h"
#include "cpu/tiles_plan.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLeastRun = 8;
constexpr int64_t kPiece = 1024;  // floats of a run at once, so that the first product stays in L1
constexpr int64_t kTurnedRun = 256, kTurnedLines = 32;  // of a block that is brought into order
constexpr int64_t kMostPairs = 1 << 16;
constexpr int kDeepest = 6;  // steps behind a weight: what is shared is computed again
constexpr double kRunNanoseconds = 0.25, kLineNanoseconds = 1.0;  // of an element

bool is_single(LetterSet letters) { return letters != 0 && (letters & (letters - 1)) == 0; }

// A value of one letter and constants, computed at a position of that letter.
class Scalar {
 public:
  Scalar(const BoundProgram& bound, const Stage& stage) : bound_(bound), stage_(stage) {}

  // Whether it is made of what `at` computes.
  bool knows(int value, int depth = 0) const {
    const Instruction& line = of(value);
    switch (line.op) {
      case Op::op_index: return true;
      case Op::op_const: return line.dtype == DType::f32;
      case Op::op_cast: return line.dtype == DType::f32 && of(line.args[0]).op == Op::op_index;
      case Op::op_add:
      case Op::op_sub:
      case Op::op_mul:
      case Op::op_div:
        return line.dtype == DType::f32 && depth < kDeepest && knows(line.args[0], depth + 1) &&
               knows(line.args[1], depth + 1);
      default: return false;
    }
  }

  float at(int value, const int64_t* letters) const {
    const Instruction& line = of(value);
    if (line.op == Op::op_const) {
      const uint32_t bits = static_cast<uint32_t>(line.literal);
      float constant;
      __builtin_memcpy(&constant, &bits, sizeof constant);
      return constant;
    }
    if (line.op == Op::op_cast) {
      const ExprId expr = of(line.args[0]).expr;
      return static_cast<float>(evaluate(*bound_.program, bound_.dims.data(), letters, expr));
    }
    const float a = at(line.args[0], letters), b = at(line.args[1], letters);
    return line.op == Op::op_add   ? a + b
           : line.op == Op::op_sub ? a - b
           : line.op == Op::op_mul ? a * b
                                   : a / b;
  }

  const Instruction& of(int value) const {
    return stage_.body[static_cast<size_t>(stage_.values[static_cast<size_t>(value)])];
  }

 private:
  const BoundProgram& bound_;
  const Stage& stage_;
};

// The load and the weight among a product's two values.
bool find_term(const Scalar& scalar, const Instruction& product, LetterSet own, int* load,
               int* weight) {
  if (product.op != Op::op_mul || product.dtype != DType::f32) return false;
  const bool first = scalar.of(product.args[0]).op == Op::op_load;
  *load = product.args[first ? 0 : 1];
  *weight = product.args[first ? 1 : 0];
  const Instruction& by = scalar.of(*weight);
  return scalar.of(*load).op == Op::op_load && by.op != Op::op_index && (by.letters & ~own) == 0 &&
         scalar.knows(*weight);
}

// Adds the letters that a load's computed indices depend on; false if it may read outside.
bool find_letters(const BoundProgram& bound, const BoundMap& map, LetterSet* found) {
  if (map.indirect || map.guarded) return false;
  for (const BoundIndex& dim : map.dims) {
    if (!dim.linear) *found |= expr_letters(*bound.program, dim.expr);
  }
  return true;
}

}  // namespace

std::unique_ptr<MixPlan> MixPlan::make(const BoundProgram& bound, size_t stage) {
  const BoundStage& s = bound.stages[stage];
  if (s.empty != 0) return nullptr;
  const std::vector<int> stores = stores_of(s);
  if (stores.size() != 1) return nullptr;
  const Instruction& store = s.stage->body[static_cast<size_t>(stores[0])];
  const Scalar scalar(bound, *s.stage);
  const Instruction& sum = scalar.of(store.args[0]);
  if (sum.op != Op::op_add || sum.dtype != DType::f32) return nullptr;
  // What the places depend on is the mixed axis.
  LetterSet own = 0;
  for (size_t i = 0; i < s.stage->body.size(); ++i) {
    if (s.stage->body[i].op != Op::op_load) continue;
    if (!find_letters(bound, s.maps[i], &own)) return nullptr;
  }
  if (!is_single(own)) return nullptr;
  const int letter = __builtin_ctz(own);
  int loads[2], weights[2];
  const BoundMap* maps[2];
  for (int k = 0; k < 2; ++k) {
    if (!find_term(scalar, scalar.of(sum.args[k]), own, &loads[k], &weights[k])) return nullptr;
    maps[k] = &s.maps[static_cast<size_t>(s.stage->values[static_cast<size_t>(loads[k])])];
  }
  std::unique_ptr<MixPlan> plan(new MixPlan);
  plan->input_ = scalar.of(loads[0]).tensor;
  plan->output_ = store.tensor;
  if (scalar.of(loads[1]).tensor != plan->input_) return nullptr;
  const Linear& to = s.maps[static_cast<size_t>(stores[0])].address;
  plan->out_base_ = to.base;
  std::vector<Loop> loops;
  Linear from[2];
  for (int k = 0; k < 2; ++k) {
    for (const BoundIndex& dim : maps[k]->dims) {
      if (!dim.linear) continue;
      from[k].base += dim.form.base * dim.stride;
      for (int l = 0; l < kMaxLetters; ++l) from[k].coef[l] += dim.form.coef[l] * dim.stride;
    }
  }
  for (size_t l = 0; l < s.stage->letters.size(); ++l) {
    if (s.extents[l] <= 1 || static_cast<int>(l) == letter) continue;
    if (from[0].coef[l] != from[1].coef[l] || to.coef[l] == 0) return nullptr;
    loops.push_back({s.extents[l], from[0].coef[l], to.coef[l]});
  }
  if (s.extents[letter] > kMostPairs) return nullptr;
  int64_t letters[kMaxLetters] = {};
  for (int64_t at = 0; at < s.extents[letter]; ++at) {
    letters[letter] = at;
    Pair pair;
    for (int k = 0; k < 2; ++k) {
      pair.places[k] = from[k].base + from[k].coef[letter] * at;
      for (const BoundIndex& dim : maps[k]->dims) {
        if (dim.linear) continue;
        pair.places[k] +=
            dim.stride * evaluate(*bound.program, bound.dims.data(), letters, dim.expr);
      }
      pair.weights[k] = scalar.at(weights[k], letters);
    }
    plan->pairs_.push_back(pair);
  }
  return plan->arrange(std::move(loops), to.coef[letter]) ? std::move(plan) : nullptr;
}

// Sorts the loops as the output lies, and takes what is contiguous on both sides for a run.
bool MixPlan::arrange(std::vector<Loop> loops, int64_t step) {
  const auto slower = [](const Loop& a, const Loop& b) { return a.out > b.out; };
  std::stable_sort(loops.begin(), loops.end(), slower);
  while (!loops.empty() && loops.back().out == run_ && loops.back().in == run_) {
    run_ *= loops.back().extent;
    loops.pop_back();
  }
  loops_ = std::move(loops);
  if (run_ == 1) {
    const auto lies = [](const Loop& l) { return l.in == 1 && l.extent >= kLeastRun; };
    const auto across = std::find_if(loops_.begin(), loops_.end(), lies);
    if (step == 1 && across != loops_.end()) {
      turned_ = *across;
      loops_.erase(across);
    }
    return step == 1;
  }
  if (run_ < kLeastRun) return false;
  const Loop mixed{static_cast<int64_t>(pairs_.size()), 0, step};
  const auto at = std::upper_bound(loops_.begin(), loops_.end(), mixed, slower);
  mixed_ = static_cast<size_t>(at - loops_.begin());
  loops_.insert(at, mixed);
  return true;
}

void MixPlan::mix_run(const float* x, float* out, const Pair& pair, int64_t length,
                      float* room) const {
  const Kernels& k = kernels();
  for (int64_t i = 0; i < length; i += kPiece) {
    const int64_t n = std::min(kPiece, length - i);
    k.binary[static_cast<int>(Op::op_mul)][0][kSplatSecond](room, x + pair.places[0] + i,
                                                            &pair.weights[0], nullptr, n);
    k.chain[kChainMul][kChainAdd][1](out + i, x + pair.places[1] + i, &pair.weights[1], room, n);
  }
}

void MixPlan::mix_line(const float* x, float* out) const {
  const Pair* const pairs = pairs_.data();
  const size_t count = pairs_.size();
  for (size_t j = 0; j < count; ++j) {
    const Pair& pair = pairs[j];
    out[j] = x[pair.places[0]] * pair.weights[0] + x[pair.places[1]] * pair.weights[1];
  }
}

// What lies side by side in the input is mixed into a block, which is written line by line.
void MixPlan::mix_turned(const float* x, float* out, float* room, float* block) const {
  const int64_t lines = static_cast<int64_t>(pairs_.size());
  for (int64_t i = 0; i < turned_.extent; i += kTurnedRun) {
    const int64_t n = std::min(kTurnedRun, turned_.extent - i);
    for (int64_t j = 0; j < lines; j += kTurnedLines) {
      const int64_t some = std::min(kTurnedLines, lines - j);
      for (int64_t l = 0; l < some; ++l) {
        mix_run(x + i, block + l * kTurnedRun, pairs_[static_cast<size_t>(j + l)], n, room);
      }
      kernels().transpose[2](out + i * turned_.out + j, turned_.out, block, kTurnedRun, some, n);
    }
  }
}

void MixPlan::run(const RunContext& context) const {
  const float* const x = reinterpret_cast<const float*>(context.tensors[input_]);
  float* const out = reinterpret_cast<float*>(context.tensors[output_]) + out_base_;
  const int count = static_cast<int>(loops_.size());
  int64_t points = 1, size[kMaxLetters];
  for (int k = 0; k < count; ++k) {
    size[k] = loops_[static_cast<size_t>(k)].extent;
    points *= size[k];
  }
  const bool lines = run_ == 1;
  const bool turns = turned_.extent > 1;
  const int64_t elements = lines ? static_cast<int64_t>(pairs_.size()) * turned_.extent : run_;
  const double each = (lines ? kLineNanoseconds : kRunNanoseconds) * static_cast<double>(elements);
  const int64_t tasks = task_count(*context.parallel, each * static_cast<double>(points));
  parallel_ranges(*context.parallel, points, tasks, [&](int64_t begin, int64_t end, int64_t) {
    alignas(64) float room[kPiece], block[kTurnedRun * kTurnedLines];
    int64_t inside[kMaxLetters] = {};
    int64_t rest = begin;
    for (int k = count; k-- > 0;) {
      inside[k] = rest % size[k];
      rest /= size[k];
    }
    for (int64_t i = begin; i < end; ++i) {
      int64_t from = 0, to = 0;
      for (int k = 0; k < count; ++k) {
        from += inside[k] * loops_[static_cast<size_t>(k)].in;
        to += inside[k] * loops_[static_cast<size_t>(k)].out;
      }
      if (turns) {
        mix_turned(x + from, out + to, room, block);
      } else if (lines) {
        mix_line(x + from, out + to);
      } else {
        mix_run(x + from, out + to, pairs_[static_cast<size_t>(inside[mixed_])], run_, room);
      }
      next_position(count, size, inside);
    }
  });
}

}  // namespace onnx_fusion::cpu
