// A plan's kernels and library calls, loaded and ready to be started.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "cuda/library.h"
#include "cuda/module.h"
#include "machine.h"

namespace onnx_fusion::cuda {

// Who makes what a plan offers, by number of offer; of a library's, by which of its algorithms.
struct Choice {
  std::array<Maker, kMostMade> makers{};
  std::array<int, kMostMade> algorithms{};
};

struct Step {
  const Launch* launch;
  Function function;
  std::shared_ptr<const Kernels> kernels;
  // Or a call:
  const Library* library;
  std::shared_ptr<const Prepared> call;
};

struct Launches {
  Plan plan;
  std::vector<Step> steps;
  // What is started instead once a call of the library has failed.
  const Launches* otherwise = nullptr;
  mutable std::atomic<bool> broken{false};
  mutable std::atomic<bool> captured{false};  // has a graph recorded a call?

  size_t workspace_bytes() const;
  // Are the libraries that are called still to be used?
  bool are_trusted() const;
};

// What is loaded of a program, for other plans of it.
struct Loaded {
  std::map<std::string, std::shared_ptr<const Kernels>> kernels;  // by entry
  // By offer, maker, how many calls of the offer come before, and algorithm; null: there is none.
  std::map<std::tuple<size_t, Maker, size_t, int>, std::shared_ptr<const Prepared>> calls;

  void add(const Launches& launches);
};

// Takes what is loaded, and adds what was not: kernels one by one, so that their texts do not
// depend on what else is chosen. Calls none but `libraries`. Throws ProgramError if the device
// cannot run the plan, or a library may not make a call, has no such algorithm or too small a
// workspace.
std::unique_ptr<Launches> load_launches(const Driver& driver, const Place& place, Plan plan,
                                        const Choice& choice, const Libraries& libraries,
                                        std::string_view ptx, const std::string& nvrtc,
                                        Loaded* loaded);
// The same of a plan without calls: all kernels are one text.
std::unique_ptr<Launches> load_launches(const Driver& driver, const Place& place, Plan plan,
                                        std::string_view ptx, const std::string& nvrtc);

// Starts them on `stream`, in the place's context, which is current.
Status start(const Driver& driver, const Launches& launches, const TensorView* inputs,
             void* const* outputs, void* workspace, Address failure, Stream stream);

}  // namespace onnx_fusion::cuda
