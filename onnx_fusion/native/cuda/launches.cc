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
    case Argument::Kind::input: return reinterpret_cast<uintptr_t>(inputs[value].data);
    case Argument::Kind::output: return reinterpret_cast<uintptr_t>(outputs[value]);
    case Argument::Kind::workspace: return reinterpret_cast<uintptr_t>(workspace) + value;
    case Argument::Kind::failure: return failure;
    default: return value;
  }
}

std::shared_ptr<const Prepared> prepare_call(const Place& place, const Call& call, size_t before,
                                             const Choice& choice, const Library& library,
                                             Loaded* loaded) {
  const int algorithm = choice.algorithms[call.offer];
  const auto [known, is_new] = loaded->calls.try_emplace(
      {call.offer, choice.makers[call.offer], before, algorithm}, nullptr);
  if (is_new) known->second = library.prepare(place.context, call, algorithm);
  return known->second;
}

}  // namespace

size_t Launches::workspace_bytes() const {
  return std::max(plan.workspace_bytes, otherwise ? otherwise->plan.workspace_bytes : 0);
}

bool Launches::are_trusted() const {
  return std::all_of(steps.begin(), steps.end(), [](const Step& step) {
    return step.library == nullptr || step.library->is_trusted();
  });
}

void Loaded::add(const Launches& launches) {
  for (const Step& step : launches.steps) {
    if (step.call != nullptr) continue;
    kernels.emplace(launches.plan.sources[step.launch->source].entry, step.kernels);
  }
}

std::unique_ptr<Launches> load_launches(const Driver& driver, const Place& place, Plan plan,
                                        const Choice& choice, const Libraries& libraries,
                                        std::string_view ptx, const std::string& nvrtc,
                                        Loaded* loaded) {
  auto ready = std::make_unique<Launches>();
  ready->plan = std::move(plan);
  for (const Source& source : ready->plan.sources) {
    auto& kernels = loaded->kernels[source.entry];
    if (kernels == nullptr) kernels = load_kernels(driver, place, {source}, ptx, nvrtc);
  }
  if (ready->plan.launches.empty()) return ready;
  const Entered entered(driver, place.context);
  driver.check("cuCtxPushCurrent", entered.code());
  std::array<size_t, kMostMade> calls{};
  for (const Launch& launch : ready->plan.launches) {
    if (launch.call) {
      const Call& call = *launch.call;
      const Library* const library = libraries[static_cast<size_t>(call.library())];
      if (library == nullptr) throw ProgramError("a library that may not be used makes a call");
      auto made = prepare_call(place, call, calls[call.offer]++, choice, *library, loaded);
      if (made == nullptr) throw ProgramError("no library has such an algorithm for a call");
      ready->steps.push_back({&launch, nullptr, nullptr, library, std::move(made)});
      continue;
    }
    const std::string& entry = ready->plan.sources[launch.source].entry;
    std::shared_ptr<const Kernels> kernels = loaded->kernels[entry];
    const Function function = kernels->find(entry);
    int threads = 0;
    driver.check("cuFuncGetAttribute",
                 driver.function_attribute(&threads, kFunctionThreads, function));
    check_limits(launch, place, threads);
    allow_shared(driver, function, static_cast<int>(launch.shared_bytes));
    ready->steps.push_back({&launch, function, std::move(kernels), nullptr, nullptr});
  }
  return ready;
}

std::unique_ptr<Launches> load_launches(const Driver& driver, const Place& place, Plan plan,
                                        std::string_view ptx, const std::string& nvrtc) {
  Loaded loaded;
  if (!plan.sources.empty()) {
    const auto kernels = load_kernels(driver, place, plan.sources, ptx, nvrtc);
    for (const Source& source : plan.sources) loaded.kernels[source.entry] = kernels;
  }
  return load_launches(driver, place, std::move(plan), Choice(), Libraries(), ptx, nvrtc, &loaded);
}

Status start(const Driver& driver, const Launches& launches, const TensorView* inputs,
             void* const* outputs, void* workspace, Address failure, Stream stream) {
  if (launches.broken) {
    return start(driver, *launches.otherwise, inputs, outputs, workspace, failure, stream);
  }
  int capturing = -1;
  for (const Step& step : launches.steps) {
    const Launch& launch = *step.launch;
    uint64_t values[kMostArguments];
    void* pointers[kMostArguments];
    for (size_t a = 0; a < launch.arguments.size(); ++a) {
      values[a] = value_of(launch.arguments[a], inputs, outputs, workspace, failure);
      pointers[a] = &values[a];
    }
    if (step.call != nullptr) {
      if (capturing < 0 && driver.is_capturing(stream, &capturing) != 0) capturing = 1;
      if (capturing != 0) launches.captured = true;
      const int code = step.call->run(values, stream, capturing != 0);
      if (code == 0) continue;
      if (code == Prepared::kNotForStream && launches.otherwise != nullptr) {
        return start(driver, *launches.otherwise, inputs, outputs, workspace, failure, stream);
      }
      const std::string what =
          std::string(step.library->entry()) + ": " + step.library->describe(code);
      if (launches.otherwise == nullptr) return Status(what);
      std::fprintf(stderr, "onnx_fusion: %s; our own kernels are used instead\n", what.c_str());
      launches.broken = true;
      return start(driver, *launches.otherwise, inputs, outputs, workspace, failure, stream);
    }
    const int code = driver.launch(step.function, launch.grid[0], launch.grid[1], launch.grid[2],
                                   launch.block[0], launch.block[1], launch.block[2],
                                   launch.shared_bytes, stream, pointers, nullptr);
    if (code != 0) return Status(driver.describe("cuLaunchKernel", code));
  }
  return Status();
}

}  // namespace onnx_fusion::cuda
