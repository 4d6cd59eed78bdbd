#include "ort/cuda_op.h"

#include "cuda/ahead.h"
#include "cuda/kernel.h"
#include "ort/node.h"
#include "ort/workspace.h"

namespace onnx_fusion::ort {
namespace {

// What ONNX Runtime holds for one node of one session.
class CudaNode {
 public:
  CudaNode(const CudaRegion* op, const Api* api, const OrtKernelInfo* info, std::string where)
      : program_(read_program(read_text([&](char* out, size_t* size) {
          return string_attribute(api, info, kProgram, out, size);
        }))),
        inputs_(op, api, info, *program_, std::move(where)) {
    OrtAllocator* allocator = nullptr;
    const OrtLogger* logger = nullptr;
    check(session_logger(api, info, &logger));
    check(kernel_allocator(api, info, 0, &allocator));
    workspaces_ = Workspaces::of(logger, api, allocator);
    const OrtMemoryInfo* memory = nullptr;
    cuda::Settings settings;
    check(allocator_memory(api, allocator, &memory));
    check(memory_device(api, memory, &settings.ordinal));
    settings.nvrtc = op->options.nvrtc;
    settings.ptx = op->options.ptx;
    settings.tf32 = op->options.tf32;
    settings.blas = op->options.blas;
    settings.dnn = op->options.dnn;
    std::vector<std::vector<int64_t>> dims;
    const std::vector<TensorView> shapes = inputs_.known(info, *program_, &dims);
    kernel_ =
        cuda::Kernel::create(program_, optional_text(api, info, kPtx), settings, shapes.data());
  }

  const Api* api() const { return inputs_.api(); }
  const std::string& where() const { return inputs_.where(); }

  OrtStatus* compute(OrtKernelContext* context) const {
    TensorView views[kMaxInputs];
    int64_t dims[kMaxInputs * kMaxRank];  // unused where shapes are borrowed
    void* data[kMaxOutputs];
    if (OrtStatus* status = inputs_.read(context, views, dims)) return status;
    std::shared_ptr<const cuda::Bound> bound;
    Status status = kernel_->bind(views, &bound);
    if (!status.ok()) return inputs_.fail(status.message);
    const auto dims_of = [&](size_t i, size_t* rank) {
      return kernel_->output_dims(*bound, i, rank);
    };
    const size_t outputs = kernel_->output_count();
    if (OrtStatus* failed = get_outputs(inputs_, context, outputs, dims_of, data)) return failed;
    void* stream = nullptr;
    if (OrtStatus* failed = compute_stream(api(), context, &stream)) return failed;
    if (cuda::Kernel::is_open(*bound)) settle(*bound, views, data, stream);
    const cuda::Launches* launches = nullptr;
    status = kernel_->choose(*bound, views, data, &launches);
    if (!status.ok()) return inputs_.fail(status.message);
    Workspaces::Use workspace;
    if (OrtStatus* failed = take(stream, &launches, &workspace)) return failed;
    status = kernel_->run(*launches, views, data, workspace.data, stream);
    return status.ok() ? nullptr : inputs_.fail(status.message);
  }

 private:
  // Memory for the launches, or for what can be run in their place with less.
  OrtStatus* take(void* stream, const cuda::Launches** launches, Workspaces::Use* use) const {
    while (true) {
      const size_t bytes = cuda::Kernel::workspace_bytes(**launches);
      OrtStatus* failed = bytes > 0 ? workspaces_->take(stream, bytes, use) : nullptr;
      const cuda::Launches* otherwise = cuda::Kernel::fallback(**launches);
      if (failed == nullptr || otherwise == nullptr) return failed;
      release_status(api(), failed);
      *use = Workspaces::Use();
      *launches = otherwise;
    }
  }

  void settle(const cuda::Bound& bound, const TensorView* views, void* const* data,
              void* stream) const {
    std::unique_ptr<Workspaces::Loan> loan;
    kernel_->settle(bound, views, data, stream, [&](size_t bytes) {
      loan = nullptr;
      loan = workspaces_->lend(bytes);
      return loan == nullptr ? nullptr : loan->data();
    });
  }

  std::shared_ptr<const Program> program_;
  Inputs inputs_;
  std::shared_ptr<Workspaces> workspaces_;
  std::unique_ptr<cuda::Kernel> kernel_;
};

}  // namespace

CudaRegion::CudaRegion(const Api* table, uint32_t table_version, std::string name,
                       CudaOptions asked)
    : FusedRegion(table, table_version, std::move(name)), options(std::move(asked)) {
  provider = [](const CustomOp* op) {
    return static_cast<const CudaRegion*>(op)->options.provider.c_str();
  };
  use_node<CudaNode>(this);
}

void compile_ahead(const CudaOptions& options, const Program& program, const std::string& text,
                   const std::vector<std::vector<int64_t>>& shapes) {
  cuda::Settings settings;  // of the first device: the others are mostly of its kind
  settings.nvrtc = options.nvrtc;
  settings.tf32 = options.tf32;
  std::vector<TensorView> views;
  for (size_t i = 0; i < program.inputs; ++i) {
    if (shapes[i].size() != program.tensors[i].rank()) return;
    views.push_back({nullptr, shapes[i].data(), shapes[i].size(), program.tensors[i].dtype});
  }
  cuda::compile_ahead(program, text, settings, views.data());
}

bool has_driver() { return cuda::Driver::exists(); }

}  // namespace onnx_fusion::ort
