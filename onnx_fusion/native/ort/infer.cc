// Shapes at session creation: a program's dims evaluated as far as the inputs' shapes are known.
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "ort/cuda_op.h"
#include "program/bind.h"

namespace onnx_fusion::ort {
namespace {

// A dim: its value, or the symbol the model has for it, or neither.
struct Extent {
  std::optional<int64_t> value;
  std::string symbol;
};

bool is_known(const Program& program, const std::vector<Extent>& dims, ExprId expr) {
  if (expr < 0) return true;
  const ExprNode& node = program.exprs[static_cast<size_t>(expr)];
  switch (node.op) {
    case ExprOp::number: return true;
    case ExprOp::dim: return dims[static_cast<size_t>(node.value)].value.has_value();
    case ExprOp::letter: return false;
    default: return is_known(program, dims, node.a) && is_known(program, dims, node.b);
  }
}

Extent evaluate(const Program& program, const std::vector<Extent>& dims, ExprId expr) {
  const ExprNode& node = program.exprs[static_cast<size_t>(expr)];
  if (node.op == ExprOp::dim) return dims[static_cast<size_t>(node.value)];
  if (!is_known(program, dims, expr)) return {};
  std::vector<int64_t> values(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) values[i] = dims[i].value.value_or(0);
  Interval range;
  if (!expr_range(program, values.data(), nullptr, expr, &range)) return {};
  return {range.lo, {}};
}

// ONNX Runtime takes equal symbols for equal extents, so one that is not known gets a new one.
std::string new_symbol() {
  static std::atomic<uint64_t> count{0};
  return "onnx_fusion_dim_" + std::to_string(count.fetch_add(1));
}

// What the inputs' shapes say about the program's dims.
class Dims {
 public:
  explicit Dims(const Program& program) : program_(program), known_(program.dims.size()) {}

  // `shape` is physical; ONNX Runtime shows an unknown rank as rank 0.
  void meet(const Tensor& input, const std::vector<Extent>& shape) {
    if (shape.size() != input.rank()) return;
    for (size_t place = 0; place < shape.size(); ++place) {
      const ExprId expr = input.shape[input.order[place]];
      const ExprNode& node = program_.exprs[static_cast<size_t>(expr)];
      if (node.op != ExprOp::dim) continue;
      Extent& dim = known_[static_cast<size_t>(node.value)];
      if (!dim.value) dim.value = shape[place].value;
      if (dim.symbol.empty()) dim.symbol = shape[place].symbol;
    }
  }

  void define() {
    for (size_t i = 0; i < known_.size(); ++i) {
      const ExprId expr = program_.dims[i].expr;
      if (expr >= 0) known_[i] = evaluate(program_, known_, expr);
      if (!known_[i].value && known_[i].symbol.empty()) known_[i].symbol = new_symbol();
    }
  }

  std::vector<Extent> physical(const Tensor& output) const {
    std::vector<Extent> shape;
    for (const uint8_t logical : output.order) {
      shape.push_back(evaluate(program_, known_, output.shape[logical]));
    }
    return shape;
  }

 private:
  const Program& program_;
  std::vector<Extent> known_;
};

std::vector<Extent> read_shape(const Api* api, const OrtInferContext* context, size_t index) {
  OrtTypeAndShape* info = nullptr;  // the context's own
  check(infer_input(api, context, index, &info));
  size_t count = 0;
  check(rank(api, info, &count));
  std::vector<int64_t> values(count);
  std::vector<const char*> names(count);
  check(dims(api, info, values.data(), count));
  check(dim_names(api, info, names.data(), count));
  std::vector<Extent> shape(count);
  for (size_t i = 0; i < count; ++i) {
    if (values[i] >= 0) shape[i].value = values[i];
    if (values[i] < 0 && names[i] != nullptr) shape[i].symbol = names[i];
  }
  return shape;
}

void write_shape(const Api* api, const OrtInferContext* context, size_t index, DType dtype,
                 std::vector<Extent> shape) {
  std::vector<int64_t> values;
  std::vector<const char*> names;
  for (Extent& extent : shape) {
    if (extent.value) extent.symbol.clear();
    if (!extent.value && extent.symbol.empty()) extent.symbol = new_symbol();
    values.push_back(extent.value.value_or(-1));
    names.push_back(extent.symbol.c_str());
  }
  OrtTypeAndShape* info = nullptr;
  check(create_type_and_shape(api, &info));
  OrtStatus* status = set_element_type(api, info, dtype_onnx(dtype));
  if (status == nullptr) status = set_dims(api, info, values.data(), values.size());
  if (status == nullptr) status = set_dim_names(api, info, names.data(), names.size());
  if (status == nullptr) status = infer_output(api, context, index, info);
  release_type_and_shape(api, info);
  check(status);
}

bool has_attribute(const Api* api, const OrtInferContext* context, const char* name) {
  const OrtOpAttr* attribute = nullptr;
  OrtStatus* status = infer_attribute(api, context, name, &attribute);
  if (status != nullptr) release_status(api, status);
  return status == nullptr && attribute != nullptr;
}

std::string read_text(const Api* api, const OrtInferContext* context) {
  const OrtOpAttr* attribute = nullptr;
  check(infer_attribute(api, context, kProgram, &attribute));
  // Asking for the size alone is answered with an error.
  std::string text(size_t{1} << 14, '\0');
  size_t size = 0;
  OrtStatus* status = read_attribute(api, attribute, kAttrString, text.data(), text.size(), &size);
  if (status != nullptr && size > text.size()) {
    release_status(api, status);
    text.resize(size);
    status = read_attribute(api, attribute, kAttrString, text.data(), text.size(), &size);
  }
  check(status);
  text.resize(size);
  if (!text.empty() && text.back() == '\0') text.pop_back();  // counted by some versions only
  return text;
}

}  // namespace

std::shared_ptr<const Program> read_program(std::string_view text) {
  using Programs = std::map<std::string, std::shared_ptr<const Program>, std::less<>>;
  constexpr size_t kKept = 256;
  static auto& mutex = *new std::mutex;
  static auto& programs = *new Programs;
  {
    std::lock_guard<std::mutex> lock(mutex);
    const auto found = programs.find(text);
    if (found != programs.end()) return found->second;
  }
  auto program = std::make_shared<const Program>(parse(text));
  std::lock_guard<std::mutex> lock(mutex);
  if (programs.size() >= kKept) programs.clear();
  programs.emplace(text, program);
  return program;
}

OrtStatus* infer(const CustomOp* op, OrtInferContext* context) noexcept {
  const auto* region = static_cast<const FusedRegion*>(op);
  const Api* api = region->api;
  try {
    const std::string text = read_text(api, context);
    const std::shared_ptr<const Program> program = read_program(text);
    size_t inputs = 0;
    check(infer_input_count(api, context, &inputs));
    Dims dims(*program);
    std::vector<std::vector<int64_t>> shapes(program->inputs);
    for (size_t i = 0; i < inputs && i < program->inputs; ++i) {
      const std::vector<Extent> shape = read_shape(api, context, i);
      shapes[i].reserve(shape.size() + 1);  // never without an address
      for (const Extent& extent : shape) shapes[i].push_back(extent.value.value_or(-1));
      dims.meet(program->tensors[i], shape);
    }
    if (region->ahead != nullptr && !(region->ahead->ptx && has_attribute(api, context, kPtx))) {
      compile_ahead(*region->ahead, *program, text, shapes);
    }
    dims.define();
    for (size_t i = 0; i < program->outputs; ++i) {
      const Tensor& output = program->output(i);
      write_shape(api, context, i, output.dtype, dims.physical(output));
    }
    return nullptr;
  } catch (...) {
    return caught(api, region->type);
  }
}

}  // namespace onnx_fusion::ort
