#include "cpu/contract_axes.h"

#include <algorithm>
#include <cstring>

namespace onnx_fusion::cpu {
namespace {

int64_t magnitude(int64_t value) { return value < 0 ? -value : value; }

Axis axis_of(const BoundStage& stage, LetterSet letters) {
  Axis axis;
  for (size_t l = 0; l < stage.stage->letters.size(); ++l) {
    if ((letters >> l & 1) != 0 && stage.extents[l] != 1) {
      axis.letters[axis.count++] = static_cast<uint8_t>(l);
    }
  }
  return axis;
}

float as_float(uint64_t literal) {
  const uint32_t bits = static_cast<uint32_t>(literal);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

int find_dot(const Stage& stage) {
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].op == Op::op_dot) return static_cast<int>(i);
  }
  return -1;
}

void read_operand(const BoundStage& stage, int value, DotOperand* operand) {
  const size_t line = static_cast<size_t>(stage.stage->values[static_cast<size_t>(value)]);
  const Instruction& from = stage.stage->body[line];
  const BoundMap& map = stage.maps[line];
  if (from.op != Op::op_load || from.dtype != DType::f32 || !map.linear || map.indirect) return;
  operand->map = &map;
  operand->tensor = from.tensor;
  operand->fill = from.has_else ? as_float(from.literal) : 0.0f;
}

DotLetters dot_letters(const BoundStage& bound) {
  const Stage& stage = *bound.stage;
  const Instruction& dot = stage.body[find_dot(stage)];
  DotLetters result;
  LetterSet letters[2], stored = 0;
  for (int i = 0; i < 2; ++i) {
    const int line = stage.values[dot.args[i]];
    const Instruction& from = stage.body[line];
    letters[i] = static_cast<LetterSet>(from.letters & ~dot.over);
    DotOperand& operand = result.operands[i];
    operand.value = dot.args[i];
    read_operand(bound, operand.value, &operand);
  }
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].op != Op::op_store) continue;
    if (result.store == nullptr) result.store = &bound.maps[i].address;
    stored |= stage.body[i].letters;
  }
  const LetterSet both = letters[0] & letters[1], any = letters[0] | letters[1];
  result.batch = axis_of(bound, static_cast<LetterSet>(both | (stored & ~any)));
  result.k = axis_of(bound, dot.over);
  for (int i = 0; i < 2; ++i) {
    result.operands[i].own = axis_of(bound, static_cast<LetterSet>(letters[i] & ~both));
  }
  return result;
}

bool is_constant(const DotOperand& operand, const TensorView* constants, size_t count) {
  return operand.map != nullptr && static_cast<size_t>(operand.tensor) < count &&
         constants[operand.tensor].data != nullptr;
}

void sort_axis(Axis* axis, const Linear& address) {
  std::stable_sort(axis->letters, axis->letters + axis->count, [&](uint8_t a, uint8_t b) {
    return magnitude(address.coef[a]) > magnitude(address.coef[b]);
  });
}

int64_t least_step(const BoundStage& stage, const Axis& axis, const Linear& address, int* letter) {
  int64_t least = 0;
  for (int i = 0; i < axis.count; ++i) {
    const int64_t coef = magnitude(address.coef[axis.letters[i]]);
    if (coef == 0 || stage.extents[axis.letters[i]] == 1 || (least != 0 && coef >= least)) continue;
    least = coef;
    *letter = axis.letters[i];
  }
  return least;
}

void locate(const BoundStage& stage, const Axis& axis, int64_t index, int64_t* letters) {
  for (int place = axis.count - 1; place >= 0; --place) {
    const int letter = axis.letters[place];
    letters[letter] = index % stage.extents[letter];
    index /= stage.extents[letter];
  }
}

}  // namespace onnx_fusion::cpu
