// Programs of models in a half type: what enters a product has that type in the model, so it has it
// here too, in memory and in the tensor cores.
#include <algorithm>

#include "cuda/fuse.h"

namespace onnx_fusion::cuda {
namespace {

bool enters_dot(const Stage& stage, const Instruction& load) {
  int value = -1;
  for (size_t k = 0; k < stage.values.size(); ++k) {
    if (&stage.body[static_cast<size_t>(stage.values[k])] == &load) value = static_cast<int>(k);
  }
  return std::any_of(stage.body.begin(), stage.body.end(), [&](const Instruction& line) {
    return line.op == Op::op_dot && (line.args[0] == value || line.args[1] == value);
  });
}

bool can_narrow(const Program& program, int tensor) {
  bool enters = false;
  for (const Stage& stage : program.stages) {
    for (const Instruction& line : stage.body) {
      if (line.tensor != tensor || line.op != Op::op_load) continue;
      if (line.has_else && line.literal != 0) return false;
      enters = enters || enters_dot(stage, line);
    }
  }
  return enters;
}

// Puts `cast dtype %value` at a place of the body; returns its value.
int insert_cast(Stage& stage, size_t place, int value, DType dtype) {
  Instruction cast;
  cast.op = Op::op_cast;
  cast.dtype = dtype;
  cast.args[0] = value;
  cast.arg_count = 1;
  const size_t from = static_cast<size_t>(stage.values[static_cast<size_t>(value)]);
  cast.letters = stage.body[from].letters;
  cast.line = stage.body[from].line;
  for (int& line : stage.values) line += static_cast<size_t>(line) >= place;
  stage.body.insert(stage.body.begin() + static_cast<std::ptrdiff_t>(place), cast);
  stage.values.push_back(static_cast<int>(place));
  return static_cast<int>(stage.values.size()) - 1;
}

void narrow(Stage& stage, int tensor, DType half) {
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (stage.body[i].tensor != tensor) continue;
    stage.body[i].dtype = half;
    if (stage.body[i].op == Op::op_store) {
      const int value = insert_cast(stage, i, stage.body[i].args[0], half);
      stage.body[++i].args[0] = value;
      continue;
    }
    const auto place = std::find(stage.values.begin(), stage.values.end(), static_cast<int>(i));
    const int value = static_cast<int>(place - stage.values.begin());
    const int wide = insert_cast(stage, i + 1, value, DType::f32);
    for (size_t k = i + 2; k < stage.body.size(); ++k) {
      Instruction& line = stage.body[k];
      for (int a = 0; a < line.arg_count; ++a) {
        if (line.args[a] == value) line.args[a] = wide;
      }
    }
    ++i;
  }
}

}  // namespace

DType half_type(const Program& program) {
  DType half = DType::f32;
  for (const Tensor& tensor : program.tensors) {
    if (tensor.kind == TensorKind::temp) continue;
    if (tensor.dtype == DType::f32 || tensor.dtype == DType::f64) return DType::f32;
    if (tensor.dtype != DType::f16 && tensor.dtype != DType::bf16) continue;
    if (half != DType::f32 && half != tensor.dtype) return DType::f32;
    half = tensor.dtype;
  }
  return program.strict ? DType::f32 : half;
}

void narrow_temps(Program* program) {
  const DType half = half_type(*program);
  if (half == DType::f32) return;
  for (size_t t = program->inputs; t < program->inputs + program->temps; ++t) {
    Tensor& tensor = program->tensors[t];
    if (tensor.dtype != DType::f32 || !can_narrow(*program, static_cast<int>(t))) continue;
    tensor.dtype = half;
    for (Stage& stage : program->stages) narrow(stage, static_cast<int>(t), half);
  }
}

}  // namespace onnx_fusion::cuda
