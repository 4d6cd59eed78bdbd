// What a kernel keeps: its signatures of shapes, and what is loaded for them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cuda/choice.h"
#include "cuda/kernel.h"

namespace onnx_fusion::cuda {

class Bound {
 public:
  std::vector<int64_t> dims;  // of all inputs
  BoundProgram program;
  std::unique_ptr<const Launches> aligned;  // where all inputs and outputs lie at multiples of 16
  mutable std::unique_ptr<const Launches> unaligned;  // made when first needed
  // What is used in place of `aligned` where libraries are faster: settled once.
  mutable std::unique_ptr<const Launches> chosen;
  mutable std::atomic<bool> settled{true};
  bool refused = false;  // what was remembered of it is not for these libraries
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

// Do all inputs and outputs lie as vector accesses and libraries need it?
bool are_aligned(const Program& program, const TensorView* inputs, void* const* outputs);

}  // namespace onnx_fusion::cuda
