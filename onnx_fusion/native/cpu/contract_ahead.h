// Which weights a thread reads after a plan's own, as it was the last time: their beginning is
// fetched while the last panel before them is multiplied. Fetching reads nothing, so they may be
// gone.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace onnx_fusion::cpu {

struct Weights {
  const float* begin;
  int64_t floats;
};

class Successor {
 public:
  // These weights are about to be read by this thread, and `this` belongs to who reads them.
  void begin(const Weights& own) const;
  // What was read after them the last time; no floats if nothing was.
  Weights next() const;

 private:
  struct Place {
    std::atomic<const float*> begin{nullptr};
    std::atomic<int64_t> floats{0};
  };
  std::shared_ptr<Place> place_ = std::make_shared<Place>();
};

}  // namespace onnx_fusion::cpu
