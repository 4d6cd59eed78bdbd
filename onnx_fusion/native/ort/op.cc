#include "ort/op.h"

#include <climits>
#include <exception>
#include <new>

#include "machine.h"
#include "ort/cuda_op.h"
#include "ort/kept.h"
#include "ort/node.h"
#include "ort/threads.h"

namespace onnx_fusion::ort {
namespace {

// The caller's threads during one run.
struct Pool {
  const Api* api;
  const OrtKernelContext* context;
  Threads* session;
  int threads;
  OrtStatus* status = nullptr;

  static void run(void* self, size_t count, Task task, void* arg) {
    Pool& pool = *static_cast<Pool*>(self);
    OrtStatus* status = pool.session->run(pool.api, pool.context, pool.threads, count, task, arg);
    if (status == nullptr) return;
    if (pool.status != nullptr) release_status(pool.api, pool.status);
    pool.status = status;
  }
};

std::string misplaced() {
  const std::string what = "ONNX Runtime runs it on the CPU, and this session wants CUDA; ";
  if (!has_driver()) return what + "the CUDA driver (libcuda.so.1) cannot be loaded here";
  return what +
         "ONNX Runtime's log says why if its CUDA provider was not loaded; else plan the model "
         "with "
         "'optimize --target cuda' or 'both'";
}

// What ONNX Runtime holds for one node of one session.
class Node {
 public:
  Node(const FusedRegion* op, const Api* api, const OrtKernelInfo* info, std::string where)
      : text_(read_text([&](char* out, size_t* size) {
          return string_attribute(api, info, kProgram, out, size);
        })),
        inputs_(op, api, info, *read_program(text_), std::move(where)) {
    if (op->cuda_only) throw ProgramError(misplaced());
    const std::vector<TensorView>& constants = inputs_.constants();
    kernel_ = Kernel::create(text_, constants.data(), constants.size());
    const std::string schedule = optional_text(api, info, kSchedule);
    if (!schedule.empty()) kept_ = std::make_unique<KeptInputs>(schedule, text_, constants);
    text_ = std::string();
    const OrtLogger* logger = nullptr;
    check(session_logger(api, info, &logger));
    threads_ = Threads::of(logger);
  }

  const Api* api() const { return inputs_.api(); }
  const std::string& where() const { return inputs_.where(); }

  OrtStatus* compute(OrtKernelContext* context) const {
    TensorView views[kMaxInputs];
    int64_t dims[kMaxInputs * kMaxRank];  // unused where shapes are borrowed
    void* data[kMaxOutputs];
    if (OrtStatus* status = inputs_.read(context, views, dims)) return status;
    const Kernel* const kept = kept_ == nullptr ? nullptr : kept_->find(views);
    const Kernel* const kernel = kept != nullptr ? kept : kernel_.get();
    BoundRef bound;
    if (Status status = kernel->bind(views, &bound); !status.ok()) return fail(status.message);
    const auto dims_of = [&](size_t i, size_t* rank) {
      return kernel->output_dims(*bound, i, rank);
    };
    const size_t outputs = kernel->output_count();
    if (OrtStatus* status = get_outputs(inputs_, context, outputs, dims_of, data)) return status;
    Pool pool{api(), context, threads_.get(), threads_->count()};
    const Parallel parallel{&pool, pool.threads, &Pool::run};
    const Status status = kernel->run(*bound, views, data, parallel);
    if (pool.status != nullptr) return pool.status;
    return status.ok() ? nullptr : fail(status.message);
  }

 private:
  OrtStatus* fail(const std::string& message) const { return inputs_.fail(message); }

  std::string text_;
  Inputs inputs_;
  std::unique_ptr<Kernel> kernel_;
  std::unique_ptr<const KeptInputs> kept_;  // if the schedule names any
  std::shared_ptr<Threads> threads_;
};

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
  use_node<Node>(this);
  infer = ort::infer;
  start_version = yes;
  end_version = [](const CustomOp*) { return INT_MAX; };
}

}  // namespace onnx_fusion::ort
