#include "cuda/kernel.h"

#include <algorithm>
#include <mutex>
#include <set>
#include <vector>

#include "cuda/fuse.h"
#include "cuda/launches.h"
#include "cuda/nvrtc.h"
#include "cuda/offline.h"
#include "cuda/trial.h"

namespace onnx_fusion::cuda {

namespace {

constexpr int kMostTries = 8;  // with inputs that tell nothing, or without memory
constexpr size_t kLeastWorkspace = 256;  // bytes that a call has, though it needs none
constexpr size_t kMostBound = 64;      // signatures that are kept
constexpr uint64_t kAlignment = 16;
constexpr unsigned kMapped = 3;  // CU_MEMHOSTALLOC_PORTABLE, _DEVICEMAP
constexpr const char* kWithheld =
    "there is no NVRTC to compile its CUDA kernels, and the PTX in the model, code that would run "
    "as it is, is not trusted; install onnx-fusion[cuda], or allow it: session(..., "
    "trust_ptx=True), or session config entry 'onnx_fusion.cuda_ptx' = '1'";

bool are_aligned(const Program& program, const TensorView* inputs, void* const* outputs) {
  uintptr_t bits = 0;
  for (size_t i = 0; i < program.inputs; ++i) bits |= reinterpret_cast<uintptr_t>(inputs[i].data);
  for (size_t o = 0; o < program.outputs; ++o) bits |= reinterpret_cast<uintptr_t>(outputs[o]);
  return bits % kAlignment == 0;
}

}  // namespace

class Bound {
 public:
  std::vector<int64_t> dims;  // of all inputs
  BoundProgram program;
  std::unique_ptr<const Launches> aligned;  // where all inputs and outputs lie at multiples of 16
  mutable std::unique_ptr<const Launches> unaligned;  // made when first needed
  // What is used in place of `aligned` where libraries are faster: settled once.
  mutable std::unique_ptr<const Launches> chosen;
  mutable std::atomic<bool> settled{true};
  bool refused = false;   // what was remembered of it is not for these libraries
  mutable int tries = 0;  // to settle it
};

struct Kernel::State {
  std::shared_ptr<const Program> program;
  std::string ptx;
  Settings settings;
  const Driver* driver = nullptr;
  Place place;

  mutable std::mutex mutex;  // guards what follows
  mutable std::vector<std::shared_ptr<const Bound>> known;  // the latest first
  // Signatures not in `known` any more whose calls a graph has recorded.
  mutable std::vector<std::shared_ptr<const Bound>> recorded;

  mutable std::mutex keeping;  // guards what follows
  // Never unloaded before the session ends, since a graph may have recorded them.
  mutable std::set<std::shared_ptr<const Kernels>> kernels;
  mutable int* failed_line = nullptr;  // in memory that the device writes
  mutable Address failed_address = 0;

  ~State() {
    if (failed_line == nullptr) return;
    const Entered entered(*driver, place.context);
    if (entered.code() == 0) driver->host_free(failed_line);
  }

  bool matches(const Bound& bound, const TensorView* inputs) const;
  std::shared_ptr<const Bound> bind(const TensorView* inputs) const;
  std::unique_ptr<Launches> prepare(const BoundProgram& bound, bool aligned) const;
  std::unique_ptr<Launches> prepare(const Bound& bound, const Choice& choice,
                                    const Libraries& libraries, Loaded* loaded) const;
  Plan plan(const BoundProgram& bound, bool aligned, const Device& makers) const;
  Libraries find(const Plan& own) const;
  void recall(Bound* bound) const;
  void force(Bound* bound) const;
  void use(const Bound& bound, const Choice& choice, const Libraries& libraries,
           Loaded* loaded) const;
  void keep(const Launches& launches) const;
  void need_failure() const;
  Status earlier_failure() const;
};

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
  auto ready =
      load_launches(*driver, place, plan(bound, aligned, Device()), ptx, settings.nvrtc);
  keep(*ready);
  return ready;
}

// With calls, which have as much workspace as their algorithms need.
std::unique_ptr<Launches> Kernel::State::prepare(const Bound& bound, const Choice& choice,
                                                 const Libraries& libraries,
                                                 Loaded* loaded) const {
  Device makers;
  makers.makers = choice.makers;
  const auto load = [&] {
    return load_launches(*driver, place, plan(bound.program, true, makers), choice, libraries, ptx,
                         settings.nvrtc, loaded);
  };
  auto ready = load();
  // With PTX in the model it may be a plan for another device than our kernels'.
  const std::vector<Offer>&offers = ready->plan.offers, &own = bound.aligned->plan.offers;
  if (!std::equal(offers.begin(), offers.end(), own.begin(), own.end(),
                  [](const Offer& a, const Offer& b) {
                    return a.stage == b.stage && a.library == b.library && a.sizes == b.sizes;
                  })) {
    throw ProgramError("the choice is for another plan");
  }
  for (const Step& step : ready->steps) {
    if (step.call == nullptr) continue;
    size_t& bytes = makers.workspaces[step.launch->call->offer];
    bytes = std::max({bytes, step.call->workspace_bytes(), kLeastWorkspace});
  }
  if (makers.workspaces != Device().workspaces) ready = load();
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

// The libraries that may make something of this plan.
Libraries Kernel::State::find(const Plan& own) const {
  return find_libraries({settings.blas, settings.dnn}, own.offers);
}

// Whether a library may make something of this signature, and what is known of that.
void Kernel::State::recall(Bound* bound) const {
  const Plan& own = bound->aligned->plan;
  const Libraries libraries = find(own);
  if (libraries == Libraries()) return;
  Choice choice;
  if (recall_choice(choice_key(*driver, place, libraries, own), &choice)) {
    const Uncaptured uncaptured(*driver);
    Loaded loaded;
    try {
      use(*bound, choice, libraries, &loaded);
      return;
    } catch (const ProgramError&) {  // measured again
      bound->refused = true;
    }
  }
  bound->settled = false;
}

void Kernel::State::force(Bound* bound) const {
  const std::vector<Offer>& offers = bound->aligned->plan.offers;
  const Libraries libraries{Library::get(LibraryName::cublaslt), Library::get(LibraryName::cudnn)};
  if (offers.empty()) throw ProgramError("nothing is offered to a library");
  Choice choice;
  for (size_t i = 0; i < offers.size(); ++i) choice.makers[i] = Maker::library;
  Loaded loaded;
  loaded.add(*bound->aligned);
  try {
    bound->chosen = prepare(*bound, choice, libraries, &loaded);
  } catch (const ProgramError&) {
    for (size_t i = 0; i < offers.size(); ++i) {
      if (offers[i].sums) choice.makers[i] = Maker::library_sums;
    }
    bound->chosen = prepare(*bound, choice, libraries, &loaded);
  }
}

void Kernel::State::use(const Bound& bound, const Choice& choice, const Libraries& libraries,
                        Loaded* loaded) const {
  if (choice.makers != Choice().makers) {
    loaded->add(*bound.aligned);
    auto made = prepare(bound, choice, libraries, loaded);
    made->otherwise = bound.aligned.get();
    bound.chosen = std::move(made);
  }
  bound.settled = true;
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

bool Kernel::is_open(const Bound& bound) { return !bound.settled; }

void Kernel::settle(const Bound& bound, const TensorView* inputs, void* const* outputs,
                    void* stream, const std::function<void*(size_t bytes)>& take) const {
  const State& state = *state_;
  const Driver& driver = *state.driver;
  const auto on = static_cast<Stream>(stream);
  if (!are_aligned(*state.program, inputs, outputs)) return;
  // One at a time, so that none is timed beside another.
  static auto& mutex = *new std::mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const Entered entered(driver, state.place.context);
  int captures = 1;
  if (bound.settled || entered.code() != 0 || driver.is_capturing(on, &captures) != 0 ||
      captures != 0) {
    return;
  }
  const Uncaptured uncaptured(driver);
  try {
    const Plan& own = bound.aligned->plan;
    // Another signature's trial may have settled it, or found a library wrong.
    const Libraries libraries = state.find(own);
    const std::string key = choice_key(driver, state.place, libraries, own);
    Choice choice;
    Loaded loaded;
    loaded.add(*bound.aligned);
    if (libraries == Libraries() || (!bound.refused && recall_choice(key, &choice))) {
      return state.use(bound, choice, libraries, &loaded);
    }
    void* workspace = nullptr;
    size_t bytes = 0;
    const auto reserve = [&](size_t wanted) {
      if (wanted <= bytes) return true;
      driver.check("cuStreamSynchronize", driver.await(on));
      workspace = take(wanted);
      bytes = workspace == nullptr ? 0 : wanted;
      return workspace != nullptr;
    };
    const auto begin = [&](const Launches& launches) {
      return start(driver, launches, inputs, outputs, workspace, state.failed_address, on);
    };
    const auto prepare = [&](const Choice& wanted) {
      return state.prepare(bound, wanted, libraries, &loaded);
    };
    Trial trial{driver, state.place, libraries, {}, 0, on, prepare, reserve, begin};
    trial.tolerance = tolerance_of(*state.program, state.settings.tf32);
    for (size_t o = 0; o < state.program->outputs; ++o) {
      const BoundTensor& tensor =
          bound.program.tensors[state.program->inputs + state.program->temps + o];
      trial.outputs.push_back({outputs[o], tensor.dtype, tensor.elements});
    }
    const Verdict verdict = find_fastest(trial, *bound.aligned, &choice);
    if (verdict == Verdict::settled) remember_choice(key, choice);
    if (verdict == Verdict::later) {
      bound.settled = ++bound.tries >= kMostTries;
    } else {
      state.use(bound, choice, libraries, &loaded);
    }
  } catch (const std::exception&) {
    bound.settled = true;  // with our kernels
  }
  driver.await(on);  // what was taken is not used any more
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
