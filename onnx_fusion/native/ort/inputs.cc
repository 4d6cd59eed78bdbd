#include "ort/inputs.h"

#include <algorithm>

namespace onnx_fusion::ort {
namespace {

// A type and shape that ONNX Runtime made for us.
struct OwnedShape {
  const Api* api;
  OrtTypeAndShape* info = nullptr;

  explicit OwnedShape(const Api* table) : api(table) {}
  OwnedShape(const OwnedShape&) = delete;
  OwnedShape& operator=(const OwnedShape&) = delete;
  ~OwnedShape() {
    if (info != nullptr) release_type_and_shape(api, info);
  }
};

// A type that ONNX Runtime made for us; `tensor` is null if it is none.
template <class Query>
class OwnedType {
 public:
  OwnedType(const Api* api, const Query& query, const OrtKernelInfo* info, size_t index)
      : api_(api) {
    check(query(api, info, index, &type_));
    if (OrtStatus* status = cast_to_tensor(api, type_, &tensor)) {
      release_type_info(api, type_);
      check(status);
    }
  }
  OwnedType(const OwnedType&) = delete;
  OwnedType& operator=(const OwnedType&) = delete;
  ~OwnedType() { release_type_info(api_, type_); }

  const OrtTypeAndShape* tensor = nullptr;

 private:
  const Api* api_;
  OrtTypeInfo* type_ = nullptr;
};

// The ONNX code of an input's or output's element type; 0 if it is not a tensor.
template <class Query>
int element_code(const Api* api, const Query& query, const OrtKernelInfo* info, size_t index) {
  const OwnedType<Query> type(api, query, info, index);
  int code = 0;
  if (type.tensor != nullptr) check(element_type(api, type.tensor, &code));
  return code;
}

void expect_count(const char* what, size_t actual, size_t expected) {
  if (actual == expected) return;
  throw ProgramError("the node has " + std::to_string(actual) + " " + what + "s, its program " +
                     std::to_string(expected));
}

void expect_type(const char* what, size_t index, int actual, DType expected) {
  if (actual == dtype_onnx(expected)) return;
  throw ProgramError(std::string(what) + " " + std::to_string(index) + " has ONNX element type " +
                     std::to_string(actual) + ", its program says " + dtype_name(expected) + " (" +
                     std::to_string(dtype_onnx(expected)) + ")");
}

}  // namespace

std::string node_text(const Api* api, const OrtKernelInfo* info, const FusedRegion* op) {
  const std::string name =
      read_text([&](char* out, size_t* size) { return node_name(api, info, out, size); });
  return "node '" + name + "' (" + op->type + ")";
}

std::string optional_text(const Api* api, const OrtKernelInfo* info, const char* name) {
  size_t size = 0;
  if (OrtStatus* status = string_attribute(api, info, name, nullptr, &size)) {
    release_status(api, status);
    return {};
  }
  return read_text(
      [&](char* out, size_t* bytes) { return string_attribute(api, info, name, out, bytes); });
}

Inputs::Inputs(const FusedRegion* op, const Api* api, const OrtKernelInfo* info,
               const Program& program, std::string where)
    : api_(api), borrows_(op->version >= kShapeReferenceApi), where_(std::move(where)) {
  size_t inputs = 0, outputs = 0;
  check(input_count(api, info, &inputs));
  check(output_count(api, info, &outputs));
  expect_count("input", inputs, program.inputs);
  expect_count("output", outputs, program.outputs);
  for (size_t i = 0; i < inputs; ++i) {
    expect_type("input", i, element_code(api, input_type, info, i), program.tensors[i].dtype);
  }
  for (size_t i = 0; i < outputs; ++i) {
    expect_type("output", i, element_code(api, output_type, info, i), program.output(i).dtype);
  }
  read_constants(info, program);
}

// Weights stay where they are as long as the session lives, so they are looked at once.
void Inputs::read_constants(const OrtKernelInfo* info, const Program& program) {
  views_.resize(program.inputs);
  shapes_.resize(program.inputs);
  for (size_t i = 0; i < views_.size(); ++i) {
    TensorView& view = views_[i];
    view = {nullptr, nullptr, 0, program.tensors[i].dtype};
    int is_constant = 0;
    const OrtValue* value = nullptr;
    check(constant_input(api_, info, i, &is_constant, &value));
    if (is_constant == 0 || value == nullptr) {
      variable_.push_back(static_cast<uint16_t>(i));
      continue;
    }
    OwnedShape shape(api_);
    check(type_and_shape(api_, value, &shape.info));
    check(rank(api_, shape.info, &view.rank));
    shapes_[i].resize(view.rank + 1);  // never without an address
    check(ort::dims(api_, shape.info, shapes_[i].data(), view.rank));
    view.dims = shapes_[i].data();
    void* data = nullptr;
    check(tensor_data(api_, const_cast<OrtValue*>(value), &data));
    view.data = data != nullptr ? data : shapes_[i].data();  // no data: no elements
  }
}

std::vector<TensorView> Inputs::known(const OrtKernelInfo* info, const Program& program,
                                      std::vector<std::vector<int64_t>>* dims) const {
  std::vector<TensorView> views = views_;
  dims->resize(views.size());
  for (const size_t i : variable_) {
    const OwnedType<decltype(input_type)> type(api_, input_type, info, i);
    std::vector<int64_t>& shape = (*dims)[i];
    size_t count = 0;
    if (type.tensor != nullptr) check(rank(api_, type.tensor, &count));
    shape.assign(count + 1, -1);  // never without an address
    if (count > 0) check(ort::dims(api_, type.tensor, shape.data(), count));
    // An unknown rank is shown as rank 0.
    const size_t expected = program.tensors[i].rank();
    if (count != expected) shape.assign(expected + 1, -1);
    views[i] = {nullptr, shape.data(), expected, program.tensors[i].dtype};
  }
  return views;
}

OrtStatus* Inputs::read(OrtKernelContext* context, TensorView* views, int64_t* dims) const {
  std::copy(views_.begin(), views_.end(), views);
  for (const size_t i : variable_) {
    if (OrtStatus* status = read_one(context, i, &views[i], dims + i * kMaxRank)) return status;
  }
  return nullptr;
}

OrtStatus* Inputs::read_one(OrtKernelContext* context, size_t i, TensorView* view,
                            int64_t* dims) const {
  const OrtValue* value = nullptr;
  if (OrtStatus* status = get_input(api_, context, i, &value)) return status;
  if (value == nullptr) return fail("input " + std::to_string(i) + " is omitted");
  void* data = nullptr;
  if (OrtStatus* status = tensor_data(api_, const_cast<OrtValue*>(value), &data)) return status;
  view->data = data;
  if (borrows_) {
    int type = 0;
    return borrow_shape(api_, value, &type, &view->dims, &view->rank);
  }
  OwnedShape shape(api_);
  if (OrtStatus* status = type_and_shape(api_, value, &shape.info)) return status;
  if (OrtStatus* status = rank(api_, shape.info, &view->rank)) return status;
  if (view->rank > kMaxRank) return fail("input " + std::to_string(i) + " has too many dims");
  view->dims = dims;
  return ort::dims(api_, shape.info, dims, view->rank);
}

}  // namespace onnx_fusion::ort
