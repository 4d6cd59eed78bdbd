#include "cuda/launches.h"

#include <algorithm>
#include <cstdio>
#include <mutex>

namespace onnx_fusion::cuda {
namespace {

constexpr size_t kMostArguments = 512;  // of a launch; CUDA takes 4 KiB of them
constexpr int kDynamicShared = 8, kFunctionThreads = 0;  // CUfunction_attribute

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

uint64_t value_of(const Argument& argument, const TensorView* inputs, void* const* outputs,
                  void* workspace, Address failure) {
  const auto value = static_cast<uint64_t>(argument.value);
  switch (argument.kind) {
    case Argument::Kind::input:
      return reinterpret_cast<uintptr_t>(inputs[value].data);
    case Argument::Kind::output:
      return reinterpret_cast<uintptr_t>(outputs[value]);
    case Argument::Kind::workspace:
      return reinterpret_cast<uintptr_t>(workspace) + value;
    case Argument::Kind::failure:
      return failure;
    default:
      return value;
  }
}

Step make_call(const Place& place, const Launch& launch, int algorithm) {
  const Library* library = Library::get(launch.call->library());
  auto made = library == nullptr ? nullptr
                                 : library->prepare(place.context, *launch.call, algorithm);
  if (made == nullptr) throw ProgramError("no library has such an algorithm for a call");
  return {&launch, nullptr, library, std::move(made)};
}

}  // namespace

size_t Launches::workspace_bytes() const {
  return std::max(plan.workspace_bytes, otherwise ? otherwise->plan.workspace_bytes : 0);
}

std::unique_ptr<Launches> load_launches(const Driver& driver, const Place& place, Plan plan,
                                        const Choice& choice, std::string_view ptx,
                                        const std::string& nvrtc) {
  auto ready = std::make_unique<Launches>();
  ready->plan = std::move(plan);
  const std::vector<Source>& sources = ready->plan.sources;
  if (!sources.empty()) ready->kernels = load_kernels(driver, place, sources, ptx, nvrtc);
  if (ready->plan.launches.empty()) return ready;
  const Entered entered(driver, place.context);
  driver.check("cuCtxPushCurrent", entered.code());
  for (const Launch& launch : ready->plan.launches) {
    if (launch.call) {
      const int algorithm = choice.algorithms[launch.call->stage];
      ready->steps.push_back(make_call(place, launch, algorithm));
      continue;
    }
    const Function function = ready->kernels->find(sources[launch.source].entry);
    int threads = 0;
    driver.check("cuFuncGetAttribute",
                 driver.function_attribute(&threads, kFunctionThreads, function));
    check_limits(launch, place, threads);
    allow_shared(driver, function, static_cast<int>(launch.shared_bytes));
    ready->steps.push_back({&launch, function, nullptr, nullptr});
  }
  return ready;
}

Status start(const Driver& driver, const Launches& launches, const TensorView* inputs,
             void* const* outputs, void* workspace, Address failure, Stream stream) {
  if (launches.broken) {
    return start(driver, *launches.otherwise, inputs, outputs, workspace, failure, stream);
  }
  for (const Step& step : launches.steps) {
    const Launch& launch = *step.launch;
    uint64_t values[kMostArguments];
    void* pointers[kMostArguments];
    for (size_t a = 0; a < launch.arguments.size(); ++a) {
      values[a] = value_of(launch.arguments[a], inputs, outputs, workspace, failure);
      pointers[a] = &values[a];
    }
    if (step.call != nullptr) {
      const int code = step.call->run(values, stream);
      if (code == 0) continue;
      const std::string what =
          std::string(step.library->entry()) + ": " + step.library->describe(code);
      if (launches.otherwise == nullptr) return Status(what);
      std::fprintf(stderr, "onnx_fusion: %s; our own kernels are used instead\n", what.c_str());
      launches.broken = true;
      return start(driver, *launches.otherwise, inputs, outputs, workspace, failure, stream);
    }
    const int code =
        driver.launch(step.function, launch.grid[0], launch.grid[1], launch.grid[2],
                      launch.block[0], launch.block[1], launch.block[2], launch.shared_bytes,
                      stream, pointers, nullptr);
    if (code != 0) return Status(driver.describe("cuLaunchKernel", code));
  }
  return Status();
}

}  // namespace onnx_fusion::cuda
