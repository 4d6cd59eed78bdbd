#include "cuda/kernel_state.h"

#include <algorithm>
#include <vector>

#include "cuda/fuse.h"
#include "cuda/nvrtc.h"
#include "cuda/offline.h"

namespace onnx_fusion::cuda {
namespace {

constexpr size_t kMostBound = 64;      // signatures that are kept
constexpr uint64_t kAlignment = 16;
constexpr unsigned kMapped = 3;  // CU_MEMHOSTALLOC_PORTABLE, _DEVICEMAP
constexpr const char* kWithheld =
    "there is no NVRTC to compile its CUDA kernels, and the PTX in the model, code that would run "
    "as it is, is not trusted; install onnx-fusion[cuda], or allow it: session(..., "
    "trust_ptx=True), or session config entry 'onnx_fusion.cuda_ptx' = '1'";

}  // namespace

bool are_aligned(const Program& program, const TensorView* inputs, void* const* outputs) {
  uintptr_t bits = 0;
  for (size_t i = 0; i < program.inputs; ++i) bits |= reinterpret_cast<uintptr_t>(inputs[i].data);
  for (size_t o = 0; o < program.outputs; ++o) bits |= reinterpret_cast<uintptr_t>(outputs[o]);
  return bits % kAlignment == 0;
}

bool Kernel::State::matches(const Bound& bound, const TensorView* inputs) const {
  const int64_t* key = bound.dims.data();
  for (size_t i = 0; i < program->inputs; ++i) {
    const TensorView& view = inputs[i];
    if (view.rank != program->tensors[i].rank()) return false;
    for (size_t d = 0; d < view.rank; ++d) {
      if (*key++ != view.dims[d]) return false;
    }
  }
  return true;
}

// The launches for this device. With PTX in the model they are those that it was made for, if it
// has them.
Plan Kernel::State::plan(const BoundProgram& bound, bool aligned, const Device& makers) const {
  const auto plan_for = [&](Device device) {
    device.aligned = aligned;
    device.tf32 = settings.tf32;
    device.makers = makers.makers;
    device.workspaces = makers.workspaces;
    Plan made;
    const Status status = cuda::plan(bound, device, &made);
    if (!status.ok()) throw ProgramError(status.message);
    return made;
  };
  if (!ptx.empty() && place.device.arch >= Device().arch) {
    Plan made = plan_for(Device());
    if (!find_ptx(ptx, made.sources).empty()) return made;
  }
  return plan_for(place.device);
}

std::unique_ptr<Launches> Kernel::State::prepare(const BoundProgram& bound, bool aligned) const {
  auto ready = load_launches(*driver, place, plan(bound, aligned, Device()), ptx, settings.nvrtc);
  keep(*ready);
  return ready;
}

void Kernel::State::keep(const Launches& launches) const {
  const std::lock_guard<std::mutex> lock(keeping);
  for (const Step& step : launches.steps) {
    if (step.kernels != nullptr) kernels.insert(step.kernels);
  }
  if (launches.plan.may_fail) need_failure();
}

void Kernel::State::need_failure() const {
  if (failed_line != nullptr) return;
  void* memory = nullptr;
  driver->check("cuMemHostAlloc", driver->host_alloc(&memory, sizeof(int), kMapped));
  failed_line = static_cast<int*>(memory);
  *failed_line = 0;
  driver->check("cuMemHostGetDevicePointer", driver->host_address(&failed_address, memory, 0));
}

Status Kernel::State::earlier_failure() const {
  if (failed_line == nullptr) return Status();
  const int line = __atomic_load_n(failed_line, __ATOMIC_RELAXED);
  if (line == 0) return Status();
  __atomic_store_n(failed_line, 0, __ATOMIC_RELAXED);
  return Status("line " + std::to_string(line) +
                ": in an earlier run, an index read from a tensor was out of range");
}

Kernel::Kernel() : state_(std::make_unique<State>()) {}
Kernel::~Kernel() = default;

std::unique_ptr<Kernel> Kernel::create(std::shared_ptr<const Program> program, std::string_view ptx,
                                       const Settings& settings, const TensorView* shapes) {
  std::unique_ptr<Kernel> kernel(new Kernel);
  State& state = *kernel->state_;
  if (const std::string reason = host_refusal(*program); !reason.empty()) {
    throw ProgramError(reason);
  }
  state.program = std::make_shared<const Program>(fuse(*program));
  if (settings.ptx) state.ptx = ptx;
  state.settings = settings;
  state.driver = &Driver::get();
  state.place = find_place(*state.driver, settings.ordinal);
  bool known = true;
  for (size_t i = 0; i < state.program->inputs; ++i) {
    for (size_t d = 0; d < shapes[i].rank; ++d) known = known && shapes[i].dims[d] >= 0;
  }
  try {
    if (known) {
      state.bind(shapes);
    } else if (state.ptx.empty()) {
      // Found now rather than in the first run: without PTX a compiler will be needed then.
      Compiler::get(settings.nvrtc);
    }
  } catch (const NoCompiler&) {
    if (ptx.empty() || settings.ptx) throw;
    throw ProgramError(kWithheld);
  }
  return kernel;
}

size_t Kernel::output_count() const { return state_->program->outputs; }

std::shared_ptr<const Bound> Kernel::State::bind(const TensorView* inputs) const {
  std::lock_guard<std::mutex> lock(mutex);
  for (size_t i = 0; i < known.size(); ++i) {
    if (!matches(*known[i], inputs)) continue;
    if (i > 0) std::rotate(known.begin(), known.begin() + i, known.begin() + i + 1);
    return known.front();
  }
  auto made = std::make_shared<Bound>();
  const Status status = bind_program(*program, inputs, &made->program);
  if (!status.ok()) throw ProgramError(status.message);
  for (size_t i = 0; i < program->inputs; ++i) {
    made->dims.insert(made->dims.end(), inputs[i].dims, inputs[i].dims + inputs[i].rank);
  }
  made->aligned = prepare(made->program, true);
  if (settings.forced) {
    force(made.get());
  } else {
    recall(made.get());
  }
  if (known.size() >= kMostBound) {
    const Bound& last = *known.back();
    if (last.settled && last.chosen && last.chosen->captured) recorded.push_back(known.back());
    known.pop_back();
  }
  known.insert(known.begin(), made);
  return made;
}

Status Kernel::bind(const TensorView* inputs, std::shared_ptr<const Bound>* bound) const {
  try {
    *bound = state_->bind(inputs);
  } catch (const std::exception& error) {
    return Status(error.what());
  }
  return Status();
}

const int64_t* Kernel::output_dims(const Bound& bound, size_t output, size_t* rank) const {
  const Program& program = *state_->program;
  const BoundTensor& tensor = bound.program.tensors[program.inputs + program.temps + output];
  *rank = tensor.physical.size();
  return tensor.physical.data();
}

Status Kernel::choose(const Bound& bound, const TensorView* inputs, void* const* outputs,
                      const Launches** launches) const {
  const State& state = *state_;
  if (are_aligned(*state.program, inputs, outputs)) {
    const bool calls = bound.settled && bound.chosen && bound.chosen->are_trusted();
    *launches = calls ? bound.chosen.get() : bound.aligned.get();
    return Status();
  }
  try {
    std::lock_guard<std::mutex> lock(state.mutex);
    if (bound.unaligned == nullptr) {
      bound.unaligned = state.prepare(bound.program, false);
    }
    *launches = bound.unaligned.get();
  } catch (const std::exception& error) {
    return Status(error.what());
  }
  return Status();
}

size_t Kernel::workspace_bytes(const Launches& launches) { return launches.workspace_bytes(); }

const Launches* Kernel::fallback(const Launches& launches) { return launches.otherwise; }

Status Kernel::run(const Launches& launches, const TensorView* inputs, void* const* outputs,
                   void* workspace, void* stream) const {
  const State& state = *state_;
  const Driver& driver = *state.driver;
  if (Status status = state.earlier_failure(); !status.ok()) return status;
  const Entered entered(driver, state.place.context);
  if (entered.code() != 0) return Status(driver.describe("cuCtxPushCurrent", entered.code()));
  return start(driver, launches, inputs, outputs, workspace, state.failed_address,
               static_cast<Stream>(stream));
}

}  // namespace onnx_fusion::cuda
