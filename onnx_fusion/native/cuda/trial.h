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
  Libraries libraries;
  std::vector<Written> outputs;
  double tolerance;  // of a result's range
  Stream stream;
  std::function<std::unique_ptr<const Launches>(const Choice&)> prepare;  // may throw
  std::function<bool(size_t bytes)> reserve;  // memory for what is started; false: there is none
  std::function<Status(const Launches&)> start;
};

// later: these inputs tell nothing, or there is no memory; untried: no library makes anything of
// this.
enum class Verdict { settled, later, untried };

// Runs our kernels, and with each offer taken by its library in its several ways; leaves the
// fastest choice. An offer of which a library makes something else stays our kernel's. The place's
// context is current. Throws ProgramError.
Verdict find_fastest(const Trial& trial, const Launches& own, Choice* best);

// How far results may lie apart, of their range, where sums come in another order.
double tolerance_of(const Program& program, bool tf32);

}  // namespace onnx_fusion::cuda
