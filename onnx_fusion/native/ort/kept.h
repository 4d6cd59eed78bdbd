// Weights that a caller may replace: initializers that are inputs of the graph too. Hardly anyone
// does, so the kernel is made as if they were constant, with what the first run brings, and every
// run compares.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "machine.h"

namespace onnx_fusion::ort {

class KeptInputs {
 public:
  // `schedule` is the node's: "kept=1,2" names the inputs, other keys are ignored. `constants` are
  // as for Kernel::create.
  KeptInputs(const std::string& schedule, const std::string& text,
             const std::vector<TensorView>& constants);

  // A kernel for inputs that are what they were at the first run, null if they are not.
  const Kernel* find(const TensorView* inputs) const;

 private:
  struct Snapshot;
  const Snapshot* take(const TensorView* inputs) const;

  std::string text_;
  std::vector<TensorView> constants_;
  std::vector<uint16_t> kept_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<Snapshot> owned_;
  mutable std::atomic<const Snapshot*> snapshot_{nullptr};
  mutable std::atomic<int> changes_{0};  // seen so far
};

}  // namespace onnx_fusion::ort
