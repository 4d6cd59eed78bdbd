// An operand that is an image times a number for each k (squeeze-and-excite's gate before a 1x1
// convolution): the numbers go to the constant operand, which is the smaller one.
#include "cpu/contract_plan.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLeastRows = 16;  // fewer are scaled themselves

const Instruction& line_of(const Stage& stage, int value) {
  return stage.body[static_cast<size_t>(stage.values[static_cast<size_t>(value)])];
}

// Whether the line depends on a letter that is neither reduced nor in the axis.
bool has_others(const BoundStage& stage, const Instruction& line, LetterSet over,
                const Axis& axis) {
  LetterSet left = static_cast<LetterSet>(line.letters & ~over);
  for (int k = 0; k < axis.count; ++k) left &= static_cast<LetterSet>(~(1u << axis.letters[k]));
  for (int l = 0; l < kMaxLetters; ++l) {
    if ((left >> l & 1) && stage.extents[l] > 1) return true;
  }
  return false;
}

}  // namespace

// The operand becomes its image alone, and the other factor's value is returned; -1 if there is
// none. Letters that the factor has besides k (one gate for each image of several) become batches.
int take_factor(const BoundProgram& bound, const BoundStage& stage, DotLetters* letters,
                const TensorView* constants, size_t count) {
  if (bound.program->strict) return -1;
  const Stage& s = *stage.stage;
  const LetterSet over = s.body[static_cast<size_t>(find_dot(s))].over;
  for (int i = 0; i < 2; ++i) {
    DotOperand& operand = letters->operands[i];
    if (operand.map != nullptr || !is_constant(letters->operands[1 - i], constants, count)) {
      continue;
    }
    const Instruction& product = line_of(s, operand.value);
    if (product.op != Op::op_mul || product.dtype != DType::f32) continue;
    if (axis_extent(stage, operand.own) < kLeastRows || letters->batch.count != 0) continue;
    for (int a = 0; a < 2; ++a) {
      DotOperand image = operand;
      read_operand(stage, product.args[a], &image);
      const int factor = product.args[1 - a];
      if (image.map == nullptr) continue;
      Axis apart, own;
      for (int k = 0; k < operand.own.count; ++k) {
        const uint8_t letter = operand.own.letters[k];
        const bool varies = (line_of(s, factor).letters >> letter & 1) && stage.extents[letter] > 1;
        Axis& to = varies ? apart : own;
        to.letters[to.count++] = letter;
      }
      if (axis_extent(stage, own) < kLeastRows ||
          has_others(stage, line_of(s, factor), over, apart)) {
        continue;
      }
      operand = image;
      operand.own = own;
      letters->batch = apart;
      return factor;
    }
  }
  return -1;
}

void ContractPlan::scale_columns(const Item& item, const Block& block, int64_t panel0,
                                 int64_t panel1, const Buffers& buffers) const {
  const int64_t k0 = pieces_[block.first].k0, depth = pieces_[block.last - 1].k1 - k0;
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    const int64_t width = panel_width(panel);
    const float* from = item.columns + panel * width_ * depth_ + k0 * width;
    float* out = buffers.columns + (panel - panel0) * width_ * depth;
    for (int64_t k = 0; k < depth; ++k, from += width, out += width) {
      const float factor = buffers.factors[k0 + k];
      for (int64_t j = 0; j < width; ++j) out[j] = from[j] * factor;
    }
  }
}

}  // namespace onnx_fusion::cpu
