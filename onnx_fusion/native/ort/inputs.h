// What a fused node reads: checked once against its program, and looked at in every run.
#pragma once

#include <string>
#include <vector>

#include "machine.h"
#include "ort/op.h"

namespace onnx_fusion::ort {

inline constexpr size_t kMaxInputs = 256;
inline constexpr size_t kMaxOutputs = 64;

// "node 'name' (type)"
std::string node_text(const Api* api, const OrtKernelInfo* info, const FusedRegion* op);

// An attribute that need not be there; then empty.
std::string optional_text(const Api* api, const OrtKernelInfo* info, const char* name);

class Inputs {
 public:
  // Throws unless counts and types of the node's inputs and outputs are the program's.
  Inputs(const FusedRegion* op, const Api* api, const OrtKernelInfo* info, const Program& program,
         std::string where);

  // The constants; the others are without data, and without dims.
  const std::vector<TensorView>& constants() const { return views_; }
  // The dims of all inputs as far as they are known now: -1 where one is not. `dims` holds what the
  // views point to.
  std::vector<TensorView> known(const OrtKernelInfo* info, const Program& program,
                                std::vector<std::vector<int64_t>>* dims) const;

  // All inputs of a run; `dims` has room for kMaxRank of each.
  OrtStatus* read(OrtKernelContext* context, TensorView* views, int64_t* dims) const;

  const Api* api() const { return api_; }
  const std::string& where() const { return where_; }
  OrtStatus* fail(const std::string& message) const {
    return create_status(api_, kRuntimeException, (where_ + ": " + message).c_str());
  }

 private:
  void read_constants(const OrtKernelInfo* info, const Program& program);
  OrtStatus* read_one(OrtKernelContext* context, size_t i, TensorView* view, int64_t* dims) const;

  const Api* api_;
  bool borrows_;
  std::string where_;
  std::vector<TensorView> views_;  // of constants; the others are filled in by every run
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<uint16_t> variable_;  // the inputs that are not constant
};

// The outputs' memory: one pointer for each. `dims_of(i, &rank)` gives a shape.
template <class Dims>
OrtStatus* get_outputs(const Inputs& inputs, OrtKernelContext* context, size_t count,
                       const Dims& dims_of, void** data) {
  for (size_t i = 0; i < count; ++i) {
    size_t rank = 0;
    const int64_t* shape = dims_of(i, &rank);
    OrtValue* value = nullptr;
    if (OrtStatus* status = get_output(inputs.api(), context, i, shape, rank, &value)) {
      return status;
    }
    if (value == nullptr) return inputs.fail("output " + std::to_string(i) + " is omitted");
    if (OrtStatus* status = tensor_data(inputs.api(), value, &data[i])) return status;
  }
  return nullptr;
}

}  // namespace onnx_fusion::ort
