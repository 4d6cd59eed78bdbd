// The interface of the native core: a tile program, bound to shapes, run on the caller's threads.
// Knows nothing of ONNX Runtime.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "dtype.h"
#include "status.h"

namespace onnx_fusion {

struct TensorView {
  const void* data;
  const int64_t* dims;  // physical: what ONNX Runtime sees
  size_t rank;
  DType dtype;
};

inline size_t bytes_of(const TensorView& view) {
  size_t bytes = dtype_size(view.dtype);
  for (size_t i = 0; i < view.rank; ++i) bytes *= static_cast<size_t>(view.dims[i]);
  return bytes;
}

// How to run tasks on the caller's threads. `run` calls task(arg, 0..count-1), each once, in any
// order and on any threads, and returns when all are done.
struct Parallel {
  void* self;
  int threads;  // an upper estimate; 1 runs everything inline and `run` may be null
  void (*run)(void* self, size_t count, void (*task)(void* arg, size_t index), void* arg);
};

class Bound;  // a kernel's plan for one signature of shapes; immutable
struct BoundSlot;

// Keeps a Bound alive while it is held; release it before the Kernel dies.
class BoundRef {
 public:
  BoundRef() = default;
  BoundRef(const BoundRef&) = delete;
  BoundRef& operator=(const BoundRef&) = delete;
  BoundRef(BoundRef&& other) noexcept : bound_(other.bound_), slot_(other.slot_) {
    other.bound_ = nullptr;
    other.slot_ = nullptr;
  }
  BoundRef& operator=(BoundRef&& other) noexcept;
  ~BoundRef();
  const Bound& operator*() const { return *bound_; }
  explicit operator bool() const { return bound_ != nullptr; }

 private:
  friend class Kernel;
  const Bound* bound_ = nullptr;
  BoundSlot* slot_ = nullptr;
};

// One per node of a session. Reentrant: bind and run are const and may be called from any threads.
class Kernel {
 public:
  // Reads and checks `text`. constants[i].data is set for inputs that stay the same for the
  // kernel's life (`count` may be 0, or the number of inputs); their weights are packed once.
  // Throws ProgramError: a text that is not valid ("line N: ..."), or a stage no kernel here runs.
  static std::unique_ptr<Kernel> create(std::string_view text, const TensorView* constants,
                                        size_t count);
  ~Kernel();

  size_t input_count() const;
  size_t output_count() const;

  // Shapes (and the contents of `as` inputs) to a plan. A signature seen lately costs a compare of
  // dims: no lock, no allocation. `inputs` holds input_count() views.
  Status bind(const TensorView* inputs, BoundRef* bound) const;
  // The physical dims of an output; they live as long as the Bound.
  const int64_t* output_dims(const Bound& bound, size_t output, size_t* rank) const;
  // How many kernels run one after the other: stages, less those that run together.
  size_t plan_count(const Bound& bound) const;
  // Computes all outputs. Inputs have the shapes they were bound with; outputs may not overlap
  // inputs.
  Status run(const Bound& bound, const TensorView* inputs, void* const* outputs,
             const Parallel& parallel) const;

 private:
  Kernel();
  void bind_early() const;
  struct State;
  std::unique_ptr<State> state_;
};

// The instruction set chosen when the library was loaded: base, avx2, avx512 or neon.
std::string isa_name();

// What is wrong with ONNX_FUSION_ISA, empty if it is not set or names one of this machine's. The
// best one is used then, where nobody asks.
const std::string& isa_error();

}  // namespace onnx_fusion
