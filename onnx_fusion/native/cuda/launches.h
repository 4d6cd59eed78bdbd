// A plan's kernels and library calls, loaded and ready to be started.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/library.h"
#include "cuda/module.h"
#include "machine.h"

namespace onnx_fusion::cuda {

// Who makes the products and convolutions of a plan, by stage; of a library's, by which of its
// algorithms.
struct Choice {
  std::array<Maker, kMostMade> makers{};
  std::array<int, kMostMade> algorithms{};
};

struct Step {
  const Launch* launch;
  Function function;  // or a call:
  const Library* library;
  std::unique_ptr<const Prepared> call;
};

struct Launches {
  Plan plan;
  std::shared_ptr<const Kernels> kernels;
  std::vector<Step> steps;
  // What is started instead once a call of the library has failed.
  const Launches* otherwise = nullptr;
  mutable std::atomic<bool> broken{false};

  size_t workspace_bytes() const;
};

// Throws ProgramError if the device cannot run the plan, or the library has no such algorithm.
std::unique_ptr<Launches> load_launches(const Driver& driver, const Place& place, Plan plan,
                                        const Choice& choice, std::string_view ptx,
                                        const std::string& nvrtc);

// Starts them on `stream`, in the place's context, which is current.
Status start(const Driver& driver, const Launches& launches, const TensorView* inputs,
             void* const* outputs, void* workspace, Address failure, Stream stream);

}  // namespace onnx_fusion::cuda
