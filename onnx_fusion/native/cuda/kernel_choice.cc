// Who makes what a kernel's plans offer to libraries: recalled, tried or forced.
#include <algorithm>

#include "cuda/kernel_state.h"
#include "cuda/trial.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int kMostTries = 8;  // with inputs that tell nothing, or without memory
constexpr size_t kLeastWorkspace = 256;  // bytes that a call has, though it needs none

}  // namespace

// With calls, which have as much workspace as their algorithms need.
std::unique_ptr<Launches> Kernel::State::prepare(const Bound& bound, const Choice& choice,
                                                 const Libraries& libraries, Loaded* loaded) const {
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

}  // namespace onnx_fusion::cuda
