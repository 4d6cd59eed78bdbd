#include "cuda/kernel.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "cuda/fuse.h"
#include "cuda/module.h"
#include "cuda/nvrtc.h"
#include "cuda/offline.h"

namespace onnx_fusion::cuda {

namespace {

constexpr size_t kMostBound = 64;      // signatures that are kept
constexpr size_t kMostArguments = 512;  // of a launch; CUDA takes 4 KiB of them
constexpr uint64_t kAlignment = 16;
constexpr int kDynamicShared = 8, kFunctionThreads = 0;  // CUfunction_attribute
constexpr unsigned kMapped = 3;  // CU_MEMHOSTALLOC_PORTABLE, _DEVICEMAP

struct Step {
  Function function;
  const Launch* launch;
};

std::string times(const unsigned* n) {
  return std::to_string(n[0]) + " x " + std::to_string(n[1]) + " x " + std::to_string(n[2]);
}

void check_limits(const Launch& launch, const Place& place, int function_threads) {
  const Device& device = place.device;
  const int64_t grid[3] = {device.max_grid_x, device.max_grid_yz, device.max_grid_yz};
  const uint64_t threads = uint64_t{launch.block[0]} * launch.block[1] * launch.block[2];
  for (int k = 0; k < 3; ++k) {
    if (launch.grid[k] > grid[k]) {
      throw ProgramError("a kernel needs a grid of " + times(launch.grid) +
                         " blocks, the device takes " + std::to_string(grid[0]) + " x " +
                         std::to_string(grid[1]) + " x " + std::to_string(grid[2]));
    }
  }
  const int most = std::min(place.max_threads, function_threads);
  if (threads > static_cast<uint64_t>(most)) {
    throw ProgramError("a kernel needs blocks of " + times(launch.block) +
                       " threads, the device takes " + std::to_string(most));
  }
  if (launch.shared_bytes > device.shared_bytes) {
    throw ProgramError("a kernel needs " + std::to_string(launch.shared_bytes) +
                       " bytes of shared memory, the device has " +
                       std::to_string(device.shared_bytes) + " for a block");
  }
  if (launch.arguments.size() > kMostArguments) {
    throw ProgramError("a kernel has " + std::to_string(launch.arguments.size()) +
                       " arguments, the most are " + std::to_string(kMostArguments));
  }
}

// Other launches of the same function may need more: what is allowed never shrinks.
void allow_shared(const Driver& driver, Function function, int bytes) {
  static auto& mutex = *new std::mutex;
  std::lock_guard<std::mutex> lock(mutex);
  int allowed = 0;
  driver.check("cuFuncGetAttribute", driver.function_attribute(&allowed, kDynamicShared, function));
  if (bytes <= allowed) return;
  driver.check("cuFuncSetAttribute",
               driver.set_function_attribute(function, kDynamicShared, bytes));
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0;
}

}  // namespace

struct Launches {
  Plan plan;
  std::shared_ptr<const Kernels> kernels;
  std::vector<Step> steps;
};

class Bound {
 public:
  std::vector<int64_t> key;  // the dims of all inputs
  BoundProgram program;
  Launches aligned;  // where all inputs and outputs lie at multiples of 16 bytes
  mutable std::unique_ptr<const Launches> unaligned;  // made when first needed
};

struct Kernel::State {
  std::shared_ptr<const Program> program;
  std::string ptx;
  Settings settings;
  const Driver* driver = nullptr;
  Place place;

  mutable std::mutex mutex;  // guards what follows
  mutable std::vector<std::shared_ptr<const Bound>> known;  // the latest first
  mutable int* failed_line = nullptr;  // in memory that the device writes
  mutable Address failed_address = 0;

  ~State() {
    if (failed_line == nullptr) return;
    const Entered entered(*driver, place.context);
    if (entered.code() == 0) driver->host_free(failed_line);
  }

  bool matches(const Bound& bound, const TensorView* inputs) const;
  Launches prepare(const BoundProgram& bound, bool aligned) const;
  Plan plan(const BoundProgram& bound, bool aligned) const;
  void need_failure() const;
  Status earlier_failure() const;
};

bool Kernel::State::matches(const Bound& bound, const TensorView* inputs) const {
  const int64_t* key = bound.key.data();
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
Plan Kernel::State::plan(const BoundProgram& bound, bool aligned) const {
  const auto plan_for = [&](Device device) {
    device.aligned = aligned;
    device.tf32 = settings.tf32;
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

Launches Kernel::State::prepare(const BoundProgram& bound, bool aligned) const {
  Launches ready;
  ready.plan = plan(bound, aligned);
  if (ready.plan.launches.empty()) return ready;
  ready.kernels = load_kernels(*driver, place, ready.plan.sources, ptx, settings.nvrtc);
  const Entered entered(*driver, place.context);
  driver->check("cuCtxPushCurrent", entered.code());
  for (const Launch& launch : ready.plan.launches) {
    const Function function = ready.kernels->find(ready.plan.sources[launch.source].entry);
    int threads = 0;
    driver->check("cuFuncGetAttribute",
                  driver->function_attribute(&threads, kFunctionThreads, function));
    check_limits(launch, place, threads);
    allow_shared(*driver, function, static_cast<int>(launch.shared_bytes));
    ready.steps.push_back({function, &launch});
  }
  if (ready.plan.may_fail) need_failure();
  return ready;
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
  state.ptx = ptx;
  state.settings = settings;
  state.driver = &Driver::get();
  state.place = find_place(*state.driver, settings.ordinal);
  for (size_t i = 0; i < state.program->inputs; ++i) {
    for (size_t d = 0; d < shapes[i].rank; ++d) {
      if (shapes[i].dims[d] < 0) {
        // Found now rather than in the first run: without PTX a compiler will be needed then.
        if (state.ptx.empty()) Compiler::get(settings.nvrtc);
        return kernel;
      }
    }
  }
  std::shared_ptr<const Bound> bound;
  const Status status = kernel->bind(shapes, &bound);
  if (!status.ok()) throw ProgramError(status.message);
  return kernel;
}

size_t Kernel::output_count() const { return state_->program->outputs; }

Status Kernel::bind(const TensorView* inputs, std::shared_ptr<const Bound>* bound) const {
  const State& state = *state_;
  std::lock_guard<std::mutex> lock(state.mutex);
  for (size_t i = 0; i < state.known.size(); ++i) {
    if (!state.matches(*state.known[i], inputs)) continue;
    if (i > 0) {
      std::rotate(state.known.begin(), state.known.begin() + i, state.known.begin() + i + 1);
    }
    *bound = state.known.front();
    return Status();
  }
  try {
    auto made = std::make_shared<Bound>();
    Status status = bind_program(*state.program, inputs, &made->program);
    if (!status.ok()) return status;
    for (size_t i = 0; i < state.program->inputs; ++i) {
      made->key.insert(made->key.end(), inputs[i].dims, inputs[i].dims + inputs[i].rank);
    }
    made->aligned = state.prepare(made->program, true);
    if (state.known.size() >= kMostBound) state.known.pop_back();
    state.known.insert(state.known.begin(), made);
    *bound = std::move(made);
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
  bool aligned = true;
  for (size_t i = 0; i < state.program->inputs; ++i) {
    aligned = aligned && is_aligned(inputs[i].data);
  }
  for (size_t o = 0; o < state.program->outputs; ++o) aligned = aligned && is_aligned(outputs[o]);
  *launches = &bound.aligned;
  if (aligned) return Status();
  try {
    std::lock_guard<std::mutex> lock(state.mutex);
    if (bound.unaligned == nullptr) {
      bound.unaligned = std::make_unique<const Launches>(state.prepare(bound.program, false));
    }
    *launches = bound.unaligned.get();
  } catch (const std::exception& error) {
    return Status(error.what());
  }
  return Status();
}

size_t Kernel::workspace_bytes(const Launches& launches) { return launches.plan.workspace_bytes; }

Status Kernel::run(const Launches& launches, const TensorView* inputs, void* const* outputs,
                   void* workspace, void* stream) const {
  const State& state = *state_;
  const Driver& driver = *state.driver;
  if (Status status = state.earlier_failure(); !status.ok()) return status;
  const Entered entered(driver, state.place.context);
  if (entered.code() != 0) return Status(driver.describe("cuCtxPushCurrent", entered.code()));
  for (const Step& step : launches.steps) {
    const Launch& launch = *step.launch;
    uint64_t values[kMostArguments];
    void* pointers[kMostArguments];
    for (size_t a = 0; a < launch.arguments.size(); ++a) {
      const Argument& argument = launch.arguments[a];
      const auto value = static_cast<uint64_t>(argument.value);
      pointers[a] = &values[a];
      switch (argument.kind) {
        case Argument::Kind::input:
          values[a] = reinterpret_cast<uintptr_t>(inputs[value].data);
          break;
        case Argument::Kind::output:
          values[a] = reinterpret_cast<uintptr_t>(outputs[value]);
          break;
        case Argument::Kind::workspace:
          values[a] = reinterpret_cast<uintptr_t>(workspace) + value;
          break;
        case Argument::Kind::failure:
          values[a] = state.failed_address;
          break;
        case Argument::Kind::int32:
        case Argument::Kind::int64:
          values[a] = value;
          break;
      }
    }
    const int code =
        driver.launch(step.function, launch.grid[0], launch.grid[1], launch.grid[2],
                      launch.block[0], launch.block[1], launch.block[2], launch.shared_bytes,
                      static_cast<Stream>(stream), pointers, nullptr);
    if (code != 0) return Status(driver.describe("cuLaunchKernel", code));
  }
  return Status();
}

}  // namespace onnx_fusion::cuda
