// Which products and convolutions of a program are a library's: tried and timed on the device.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/choice.h"

namespace onnx_fusion::cuda {

struct Written {  // an output
  void* data;
  DType dtype;
  int64_t elements;
};

struct Trial {
  const Driver& driver;
  const Place& place;
  Libraries libraries;  // one that computes something else is taken out
  std::vector<Written> outputs;
  double tolerance;  // of a result's range
  size_t workspace_bytes;
  Stream stream;
  std::function<std::unique_ptr<const Launches>(const Choice&)> prepare;  // may throw
  std::function<Status(const Launches&)> start;
};

// later: these inputs tell nothing; untried: no library makes anything of this.
enum class Verdict { settled, later, untried };

// Runs our kernels, and with each offer taken by its library in its several ways; leaves the
// fastest choice whose results are right. The place's context is current. Throws ProgramError.
Verdict find_fastest(Trial* trial, const Launches& own, Choice* best);

// How far results may lie apart, of their range, where sums come in another order.
double tolerance_of(const Program& program, bool tf32);

}  // namespace onnx_fusion::cuda
