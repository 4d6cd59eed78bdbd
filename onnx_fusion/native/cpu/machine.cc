// Kernels: a program's plans by shape, the cache of them, and running one.
#include "machine.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <vector>

#include "cpu/attention.h"
#include "cpu/band.h"
#include "cpu/contract.h"
#include "cpu/contract_pooled.h"
#include "cpu/stage.h"
#include "cpu/weights.h"
#include "program/bind.h"

namespace onnx_fusion {

class Bound {
 public:
  std::vector<int64_t> key;  // the dims of all inputs, then the contents of `as` inputs
  BoundProgram program;
  std::vector<std::unique_ptr<StagePlan>> plans;
  std::vector<size_t> temps;  // offsets into the run's scratch
  size_t temp_bytes = 0;
};

// A place of the cache. Who reads pins it first and looks then; who replaces takes the Bound out
// first and frees it only when it has seen no pin since.
struct BoundSlot {
  std::atomic<int> pins{0};
  std::atomic<const Bound*> bound{nullptr};
};

BoundRef& BoundRef::operator=(BoundRef&& other) noexcept {
  std::swap(bound_, other.bound_);
  std::swap(slot_, other.slot_);
  return *this;
}

BoundRef::~BoundRef() {
  if (slot_ != nullptr) slot_->pins.fetch_sub(1);
}

namespace {

constexpr size_t kSlots = 8;
constexpr size_t kAlignment = 64;
constexpr int64_t kEarlyElements = 1 << 26;  // of an input, to be planned for before it is seen

struct Retired {
  BoundSlot* slot;
  const Bound* bound;
};

// SSE code of whoever runs next on this thread is slow while upper halves of registers are in use
// (ONNX Runtime's DFT took 2 to 3 times as long): a kernel may end in a branch that leaves them so.
void clear_upper_halves() {
#if defined(__x86_64__)
  static const bool has_upper = __builtin_cpu_supports("avx");
  if (has_upper) asm volatile("vzeroupper" : : : "memory");
#endif
}

// Runs tasks as `self`, a Parallel, does.
void run_tidily(void* self, size_t count, void (*task)(void*, size_t), void* arg) {
  struct Task {
    void (*run)(void*, size_t);
    void* arg;
  } own{task, arg};
  const Parallel& parallel = *static_cast<const Parallel*>(self);
  parallel.run(
      parallel.self, count,
      [](void* given, size_t index) {
        const Task& one = *static_cast<const Task*>(given);
        one.run(one.arg, index);
        clear_upper_halves();
      },
      &own);
}

int64_t content(const TensorView& view, size_t i) {
  return view.dtype == DType::i64 ? static_cast<const int64_t*>(view.data)[i]
                                  : static_cast<const int32_t*>(view.data)[i];
}

}  // namespace

struct Kernel::State {
  Program program;
  std::vector<StageForm> forms;
  std::vector<TensorView> constants;
  std::vector<std::vector<int64_t>> constant_dims;

  mutable BoundSlot slots[kSlots];
  mutable std::mutex mutex;  // guards what follows, and replacing
  mutable std::vector<Retired> retired;
  mutable size_t next = 0;
  mutable cpu::ConstantHashes hashes;

  ~State() {
    for (BoundSlot& slot : slots) delete slot.bound.load();
    for (const Retired& r : retired) delete r.bound;
  }

  bool matches(const Bound& bound, const TensorView* inputs) const {
    const int64_t* key = bound.key.data();
    for (size_t i = 0; i < program.inputs; ++i) {
      const Tensor& tensor = program.tensors[i];
      const TensorView& view = inputs[i];
      if (view.rank != tensor.rank() || view.dtype != tensor.dtype) return false;
      for (size_t d = 0; d < view.rank; ++d) {
        if (*key++ != view.dims[d]) return false;
      }
      for (size_t k = 0; k < tensor.contents.size(); ++k) {
        if (*key++ != content(view, k)) return false;
      }
    }
    return true;
  }

  void free_retired() const {
    size_t kept = 0;
    for (const Retired& r : retired) {
      if (r.slot->pins.load() == 0) {
        delete r.bound;
      } else {
        retired[kept++] = r;
      }
    }
    retired.resize(kept);
  }

  Status plan(const TensorView* inputs, Bound* bound) const;
  std::unique_ptr<StagePlan> plan_stage(const BoundProgram& bound, size_t s) const;
  bool may_attend(size_t stage) const;
  void place_temps(const std::vector<size_t>& plan_of, Bound* bound) const;
};

Kernel::Kernel() : state_(std::make_unique<State>()) {}
Kernel::~Kernel() = default;

std::unique_ptr<Kernel> Kernel::create(std::string_view text, const TensorView* constants,
                                       size_t count) {
  std::unique_ptr<Kernel> kernel(new Kernel);
  State& state = *kernel->state_;
  state.program = parse(text);
  for (size_t s = 0; s < state.program.stages.size(); ++s) {
    StageForm form;
    std::string reason;
    if (!classify(state.program, s, &form, &reason)) throw Unrunnable(reason);
    if (form == StageForm::contraction) {
      reason = contract_refusal(state.program, s);
      if (!reason.empty()) throw Unrunnable(reason);
    }
    state.forms.push_back(form);
  }
  for (size_t i = 0; i < count && i < state.program.inputs; ++i) {
    TensorView view = constants[i];
    std::vector<int64_t> dims;
    if (view.data != nullptr) dims.assign(view.dims, view.dims + view.rank);
    state.constant_dims.push_back(std::move(dims));
    view.dims = state.constant_dims.back().data();
    state.constants.push_back(view);
  }
  kernel->bind_early();
  return kernel;
}

// Where the text alone says every shape, plans and packs now what the first run would.
void Kernel::bind_early() const {
  const State& state = *state_;
  const Program& program = state.program;
  if (state.constants.size() != program.inputs) return;
  bool packs = false;
  std::vector<TensorView> views = state.constants;
  std::vector<std::vector<int64_t>> dims(views.size());
  for (size_t i = 0; i < views.size(); ++i) {
    packs = packs || views[i].data != nullptr;
    if (views[i].data != nullptr) continue;
    const Tensor& tensor = program.tensors[i];
    if (!tensor.contents.empty()) return;
    int64_t elements = 1;
    for (const uint8_t logical : tensor.order) {
      const ExprNode& extent = program.exprs[static_cast<size_t>(tensor.shape[logical])];
      if (extent.op != ExprOp::number || extent.value > kEarlyElements) return;
      elements *= std::max<int64_t>(extent.value, 1);
      if (elements > kEarlyElements) return;
      dims[i].push_back(extent.value);
    }
    views[i] = {nullptr, dims[i].data(), dims[i].size(), tensor.dtype};
  }
  const bool contracts = std::find(state.forms.begin(), state.forms.end(),
                                   StageForm::contraction) != state.forms.end();
  if (!packs || !contracts) return;
  BoundRef bound;
  const Status status = bind(views.data(), &bound);
  (void)status;  // what is wrong will be said by the first run
}

size_t Kernel::input_count() const { return state_->program.inputs; }
size_t Kernel::output_count() const { return state_->program.outputs; }

Status Kernel::bind(const TensorView* inputs, BoundRef* bound) const {
  const State& state = *state_;
  const auto find = [&] {
    for (BoundSlot& slot : state.slots) {
      slot.pins.fetch_add(1);
      const Bound* found = slot.bound.load();
      if (found != nullptr && state.matches(*found, inputs)) {
        BoundRef ref;
        ref.bound_ = found;
        ref.slot_ = &slot;
        *bound = std::move(ref);
        return true;
      }
      slot.pins.fetch_sub(1);
    }
    return false;
  };
  if (find()) return Status();
  try {
    std::lock_guard<std::mutex> lock(state.mutex);
    if (find()) return Status();
    auto made = std::make_unique<Bound>();
    Status status = state.plan(inputs, made.get());
    if (!status.ok()) return status;
    state.retired.reserve(state.retired.size() + 1);
    BoundSlot& slot = state.slots[state.next++ % kSlots];
    const Bound* old = slot.bound.exchange(nullptr);
    if (old != nullptr) state.retired.push_back({&slot, old});
    state.free_retired();
    BoundRef ref;
    slot.pins.fetch_add(1);
    ref.slot_ = &slot;
    ref.bound_ = made.release();
    slot.bound.store(ref.bound_);
    *bound = std::move(ref);
  } catch (const std::exception& error) {
    return Status(std::string("binding failed: ") + error.what());
  }
  return Status();
}

Status Kernel::State::plan(const TensorView* inputs, Bound* bound) const {
  Status status = bind_program(program, inputs, &bound->program);
  if (!status.ok()) return status;
  for (size_t i = 0; i < program.inputs; ++i) {
    bound->key.insert(bound->key.end(), inputs[i].dims, inputs[i].dims + inputs[i].rank);
    for (size_t k = 0; k < program.tensors[i].contents.size(); ++k) {
      bound->key.push_back(content(inputs[i], k));
    }
  }
  const cpu::ConstantHashes::Use use(&hashes);
  std::vector<size_t> plan_of;  // per stage
  for (size_t s = 0; s < forms.size();) {
    size_t taken = kAttentionStages;
    std::unique_ptr<StagePlan> plan = may_attend(s) ? plan_attention(bound->program, s) : nullptr;
    const auto one = [&](const BoundProgram& b, size_t stage) { return plan_stage(b, stage); };
    if (plan == nullptr && forms[s] == StageForm::contraction) {
      plan = cpu::plan_pooled(bound->program, s, constants.data(), constants.size());
      taken = 2;
    }
    if (plan == nullptr) {
      plan = plan_bands(bound->program, s, constants.data(), constants.size(), one, &taken);
    }
    if (plan == nullptr) {
      plan = plan_stage(bound->program, s);
      taken = 1;
    }
    s += taken;
    plan_of.resize(s, bound->plans.size());
    bound->plans.push_back(std::move(plan));
  }
  place_temps(plan_of, bound);
  hashes.give_back();
  return Status();
}

std::unique_ptr<StagePlan> Kernel::State::plan_stage(const BoundProgram& bound, size_t s) const {
  // A contraction of which a letter has no position is either not stored, or a sum over nothing.
  const bool nothing = bound.stages[s].empty != 0;
  if (forms[s] == StageForm::rows) return plan_rows(bound, s);
  if (forms[s] == StageForm::pointwise || nothing) return plan_pointwise(bound, s);
  return plan_contraction(bound, s, constants.data(), constants.size());
}

bool Kernel::State::may_attend(size_t stage) const {
  return stage + kAttentionStages <= forms.size() && forms[stage] == StageForm::contraction &&
         forms[stage + 1] == StageForm::rows && forms[stage + 2] == StageForm::contraction;
}

// Temps share memory where one is last loaded before the other is first stored. What one plan
// stores and loads itself never is in memory.
void Kernel::State::place_temps(const std::vector<size_t>& plan_of, Bound* bound) const {
  struct Use {
    size_t temp, first, last, bytes;
  };
  std::vector<Use> uses;
  for (size_t t = 0; t < program.temps; ++t) {
    const size_t index = program.inputs + t;
    const BoundTensor& tensor = bound->program.tensors[index];
    Use use{t, program.stages.size(), 0,
            static_cast<size_t>(tensor.elements) * dtype_size(tensor.dtype)};
    use.bytes = (use.bytes + kAlignment) / kAlignment * kAlignment;
    bool loaded = false;
    for (size_t s = 0; s < program.stages.size(); ++s) {
      for (const Instruction& line : program.stages[s].body) {
        if (line.tensor != static_cast<int>(index)) continue;
        use.first = std::min(use.first, plan_of[s]);
        use.last = std::max(use.last, plan_of[s]);
        loaded = loaded || line.op == Op::op_load;
      }
    }
    if (loaded && use.first == use.last) use.bytes = 0;
    uses.push_back(use);
  }
  std::sort(uses.begin(), uses.end(), [](const Use& a, const Use& b) { return a.bytes > b.bytes; });
  bound->temps.resize(program.temps);
  for (size_t i = 0; i < uses.size(); ++i) {
    size_t offset = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t j = 0; j < i; ++j) {
        const size_t other = bound->temps[uses[j].temp];
        const bool together = uses[i].first <= uses[j].last && uses[j].first <= uses[i].last;
        if (together && offset < other + uses[j].bytes && other < offset + uses[i].bytes) {
          offset = other + uses[j].bytes;
          moved = true;
        }
      }
    }
    bound->temps[uses[i].temp] = offset;
    bound->temp_bytes = std::max(bound->temp_bytes, offset + uses[i].bytes);
  }
}

const int64_t* Kernel::output_dims(const Bound& bound, size_t output, size_t* rank) const {
  const Program& program = state_->program;
  const BoundTensor& tensor = bound.program.tensors[program.inputs + program.temps + output];
  *rank = tensor.physical.size();
  return tensor.physical.data();
}

size_t Kernel::plan_count(const Bound& bound) const { return bound.plans.size(); }

Status Kernel::run(const Bound& bound, const TensorView* inputs, void* const* outputs,
                   const Parallel& parallel) const {
  const Program& program = state_->program;
  char* tensors[256 + 256 + 64];  // the most that a program has
  size_t at = 0;
  for (size_t i = 0; i < program.inputs; ++i) {
    tensors[at++] = static_cast<char*>(const_cast<void*>(inputs[i].data));
  }
  const Scratch temps(bound.temp_bytes);
  if (bound.temp_bytes > 0 && temps.data() == nullptr) return Status("out of memory");
  for (size_t t = 0; t < program.temps; ++t) tensors[at++] = temps.data() + bound.temps[t];
  for (size_t o = 0; o < program.outputs; ++o) tensors[at++] = static_cast<char*>(outputs[o]);
  std::atomic<int> failed_line{0};
  const Parallel tidy{const_cast<Parallel*>(&parallel), parallel.threads,
                      parallel.run == nullptr ? nullptr : run_tidily};
  const RunContext context{&bound.program, tensors, &tidy, &failed_line};
  for (const std::unique_ptr<StagePlan>& plan : bound.plans) {
    plan->run(context);
    clear_upper_halves();
    const int line = failed_line.load(std::memory_order_relaxed);
    if (line < 0) return Status("out of memory");
    if (line > 0) {
      return Status("line " + std::to_string(line) +
                    ": an index read from a tensor is out of range");
    }
  }
  return Status();
}

}  // namespace onnx_fusion
