#include "ort/op.h"

#include <climits>
#include <cstring>
#include <exception>
#include <new>
#include <vector>

#include "machine.h"
#include "ort/threads.h"

namespace onnx_fusion::ort {
namespace {

constexpr size_t kMaxInputs = 256;
constexpr size_t kMaxOutputs = 64;

std::string node_text(const Api* api, const OrtKernelInfo* info, const FusedRegion* op) {
  const std::string name =
      read_text([&](char* out, size_t* size) { return node_name(api, info, out, size); });
  return "node '" + name + "' (" + op->type + ")";
}

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

// The ONNX code of an input's or output's element type; 0 if it is not a tensor.
template <class Query>
int element_code(const Api* api, const Query& query, const OrtKernelInfo* info, size_t index) {
  OrtTypeInfo* type = nullptr;
  check(query(api, info, index, &type));
  const OrtTypeAndShape* tensor = nullptr;
  int code = 0;
  OrtStatus* status = cast_to_tensor(api, type, &tensor);
  if (status == nullptr && tensor != nullptr) status = element_type(api, tensor, &code);
  release_type_info(api, type);
  check(status);
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

// The caller's threads during one run.
struct Pool {
  const Api* api;
  const OrtKernelContext* context;
  size_t threads;
  OrtStatus* status = nullptr;

  static void run(void* self, size_t count, Task task, void* arg) {
    Pool& pool = *static_cast<Pool*>(self);
    // Batches are claimed one by one, so a few per thread even out a thread that comes late.
    const size_t batches = count < 4 * pool.threads ? count : 4 * pool.threads;
    OrtStatus* status = parallel_for(pool.api, pool.context, task, count, batches, arg);
    if (status == nullptr) return;
    if (pool.status != nullptr) release_status(pool.api, pool.status);
    pool.status = status;
  }
};

// What ONNX Runtime holds for one node of one session.
class Node {
 public:
  Node(const FusedRegion* op, const Api* api, const OrtKernelInfo* info, std::string where)
      : api_(api), borrows_(op->version >= kShapeReferenceApi), where_(std::move(where)) {
    const std::string text = read_text(
        [&](char* out, size_t* size) { return string_attribute(api, info, kProgram, out, size); });
    size_t inputs = 0, outputs = 0;
    check(input_count(api, info, &inputs));
    check(output_count(api, info, &outputs));
    const std::shared_ptr<const Program> program = read_program(text);
    expect_count("input", inputs, program->inputs);
    expect_count("output", outputs, program->outputs);
    for (size_t i = 0; i < inputs; ++i) {
      expect_type("input", i, element_code(api, input_type, info, i), program->tensors[i].dtype);
    }
    for (size_t i = 0; i < outputs; ++i) {
      expect_type("output", i, element_code(api, output_type, info, i), program->output(i).dtype);
    }
    read_constants(info, *program);
    kernel_ = Kernel::create(text, views_.data(), views_.size());
    const OrtLogger* logger = nullptr;
    check(session_logger(api, info, &logger));
    threads_ = Threads::of(logger);
  }

  const Api* api() const { return api_; }
  const std::string& where() const { return where_; }

  OrtStatus* compute(OrtKernelContext* context) const {
    TensorView views[kMaxInputs];
    int64_t dims[kMaxInputs * kMaxRank];  // unused where shapes are borrowed
    const size_t outputs = kernel_->output_count();
    std::memcpy(views, views_.data(), views_.size() * sizeof(TensorView));
    for (const size_t i : variable_) {
      if (OrtStatus* status = read_input(context, i, &views[i], dims + i * kMaxRank)) {
        return status;
      }
    }
    BoundRef bound;
    if (Status status = kernel_->bind(views, &bound); !status.ok()) return fail(status.message);
    void* data[kMaxOutputs];
    for (size_t i = 0; i < outputs; ++i) {
      size_t rank = 0;
      const int64_t* shape = kernel_->output_dims(*bound, i, &rank);
      OrtValue* value = nullptr;
      if (OrtStatus* status = get_output(api_, context, i, shape, rank, &value)) return status;
      if (value == nullptr) return fail("output " + std::to_string(i) + " is omitted");
      if (OrtStatus* status = tensor_data(api_, value, &data[i])) return status;
    }
    Pool pool{api_, context, static_cast<size_t>(threads_->count(api_, context))};
    const Parallel parallel{&pool, static_cast<int>(pool.threads), &Pool::run};
    const Status status = kernel_->run(*bound, views, data, parallel);
    if (pool.status != nullptr) return pool.status;
    return status.ok() ? nullptr : fail(status.message);
  }

 private:
  OrtStatus* fail(const std::string& message) const {
    return create_status(api_, kRuntimeException, (where_ + ": " + message).c_str());
  }

  // Weights stay where they are as long as the session lives, so they are looked at once.
  void read_constants(const OrtKernelInfo* info, const Program& program) {
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

  OrtStatus* read_input(OrtKernelContext* context, size_t i, TensorView* view,
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

  const Api* api_;
  bool borrows_;
  std::string where_;
  std::vector<TensorView> views_;  // of constants; the others are filled in by every run
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<uint16_t> variable_;  // the inputs that are not constant
  std::unique_ptr<Kernel> kernel_;
  std::shared_ptr<Threads> threads_;
};

OrtStatus* create_node(const CustomOp* op, const Api* api, const OrtKernelInfo* info,
                       void** node) noexcept {
  std::string where;
  try {
    const auto* region = static_cast<const FusedRegion*>(op);
    where = node_text(api, info, region);
    *node = new Node(region, api, info, where);
    return nullptr;
  } catch (...) {
    return caught(api, where);
  }
}

OrtStatus* compute_node(void* node, OrtKernelContext* context) noexcept {
  const Node& self = *static_cast<const Node*>(node);
  try {
    return self.compute(context);
  } catch (...) {
    return caught(self.api(), self.where());
  }
}

}  // namespace

OrtStatus* caught(const Api* api, const std::string& where) noexcept {
  try {
    std::string what = "unknown error";
    try {
      throw;
    } catch (const Failure& failure) {
      what = error_message(api, failure.status);
      release_status(api, failure.status);
    } catch (const ProgramError& error) {
      what = error.what();
    } catch (const std::bad_alloc&) {
      what = "out of memory";
    } catch (const std::exception& error) {
      what = error.what();
    } catch (...) {
    }
    return create_status(api, kFail, (where.empty() ? what : where + ": " + what).c_str());
  } catch (...) {
    return create_status(api, kFail, "onnx_fusion: out of memory");
  }
}

FusedRegion::FusedRegion(const Api* table, uint32_t table_version, std::string name)
    : CustomOp{}, api(table), type(std::move(name)) {
  const auto variadic = [](const CustomOp*, size_t) { return kVariadic; };
  const auto any_type = [](const CustomOp*, size_t) { return 0; };
  const auto one = [](const CustomOp*) -> size_t { return 1; };
  const auto no = [](const CustomOp*) { return 0; };
  const auto yes = [](const CustomOp*) { return 1; };
  version = table_version;
  CustomOp::name = [](const CustomOp* op) {
    return static_cast<const FusedRegion*>(op)->type.c_str();
  };
  provider = [](const CustomOp*) -> const char* { return nullptr; };
  input_type = any_type;
  input_count = one;
  output_type = any_type;
  output_count = one;
  input_characteristic = variadic;
  output_characteristic = variadic;
  input_memory = any_type;
  input_min_arity = no;
  input_homogeneous = no;
  output_min_arity = yes;
  output_homogeneous = no;
  create_kernel_status = create_node;
  compute_status = compute_node;
  destroy = [](void* node) { delete static_cast<Node*>(node); };
  infer = ort::infer;
  start_version = yes;
  end_version = [](const CustomOp*) { return INT_MAX; };
}

}  // namespace onnx_fusion::ort
