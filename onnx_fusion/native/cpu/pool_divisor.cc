#include "cpu/pool_divisor.h"

#include <cmath>
#include <map>

#include "cpu/kernels.h"

namespace onnx_fusion::cpu {
namespace {

constexpr float kExact = 1 << 24;  // products of whole numbers up to here do not round
constexpr size_t kMostLines = 64;

struct Factors {
  float constant = 1;
  std::vector<float> of[3];  // by position of a side: planes, rows, columns
};

// Multiplies the factors of `line` in; false if it is no product of whole numbers, each of one
// side.
bool collect(const BoundProgram& bound, const BoundStage& stage, const WindowSide* const* sides,
             int line, Factors* factors) {
  const Stage& s = *stage.stage;
  const Instruction& at = s.body[static_cast<size_t>(line)];
  const auto operand = [&](const Instruction& of, int k) {
    return s.values[static_cast<size_t>(of.args[k])];
  };
  if (at.dtype != DType::f32) return false;
  if (at.op == Op::op_mul) {
    return collect(bound, stage, sides, operand(at, 0), factors) &&
           collect(bound, stage, sides, operand(at, 1), factors);
  }
  if (at.op == Op::op_const) {
    const uint32_t bits = static_cast<uint32_t>(at.literal);
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    factors->constant *= value;
    return value >= 1 && value <= kExact && value == std::floor(value);
  }
  if (at.op != Op::op_cast) return false;
  const Instruction& index = s.body[static_cast<size_t>(operand(at, 0))];
  if (index.op != Op::op_index) return false;
  const LetterSet letters = expr_letters(*bound.program, index.expr);
  int side = -1;
  for (int l = 0; l < kMaxLetters; ++l) {
    if (!(letters >> l & 1) || stage.extents[l] == 1) continue;
    int found = -1;
    for (int k = 0; k < 3; ++k) found = sides[k]->letter == l ? k : found;
    if (found < 0 || (side >= 0 && side != found)) return false;
    side = found;
  }
  int64_t position[kMaxLetters] = {};
  const int64_t count = side < 0 ? 1 : sides[side]->outputs;
  for (int64_t i = 0; i < count; ++i) {
    if (side >= 0) position[sides[side]->letter] = i;
    const int64_t value = evaluate(*bound.program, bound.dims.data(), position, index.expr);
    if (value < 1 || value > static_cast<int64_t>(kExact)) return false;
    float& factor = side < 0 ? factors->constant : factors->of[side][static_cast<size_t>(i)];
    factor *= static_cast<float>(value);
  }
  return true;
}

}  // namespace

PoolDivisor::PoolDivisor(const BoundProgram& bound, size_t stage, int reduction,
                         const WindowSide& planes, const WindowSide& rows,
                         const WindowSide& columns) {
  const BoundStage& s = bound.stages[stage];
  const std::vector<Instruction>& body = s.stage->body;
  int quotient = -1, uses = 0;
  for (size_t i = 0; i < body.size(); ++i) {
    for (int a = 0; a < body[i].arg_count; ++a) {
      if (s.stage->values[static_cast<size_t>(body[i].args[a])] != reduction) continue;
      ++uses;
      if (body[i].op == Op::op_div && a == 0) quotient = static_cast<int>(i);
    }
  }
  if (quotient < 0 || uses != 1) return;
  const WindowSide* const sides[3] = {&planes, &rows, &columns};
  Factors factors;
  for (int k = 0; k < 3; ++k) factors.of[k].assign(static_cast<size_t>(sides[k]->outputs), 1.0f);
  const int by = s.stage->values[static_cast<size_t>(body[static_cast<size_t>(quotient)].args[1])];
  if (!collect(bound, s, sides, by, &factors)) return;
  const std::vector<float>& along = factors.of[2];
  apart_ = (static_cast<int64_t>(along.size()) + kPoolSlack + 15) / 16 * 16;
  rows_ = rows.outputs;
  std::map<float, int32_t> known;
  for (const float plane : factors.of[0]) {
    for (const float row : factors.of[1]) {
      const float scale = factors.constant * plane * row;
      const auto [found, added] = known.emplace(scale, static_cast<int32_t>(known.size()));
      which_.push_back(found->second);
      if (!added) continue;
      if (known.size() > kMostLines) return;
      lines_.resize(lines_.size() + static_cast<size_t>(2 * apart_), 1.0f);
      float* const line = lines_.data() + lines_.size() - 2 * apart_;
      for (size_t q = 0; q < along.size(); ++q) {
        line[q] = scale * along[q];
        line[q + static_cast<size_t>(apart_)] = 1.0f / line[q];
        if (line[q] > kExact) return;
      }
    }
  }
  line_ = quotient;
  bool same = known.size() == 1;
  for (const float factor : along) same = same && factor == along[0];
  if (same && !lines_.empty()) uniform_ = lines_[0];
}

}  // namespace onnx_fusion::cpu
