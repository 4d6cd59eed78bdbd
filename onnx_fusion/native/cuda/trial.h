// Which products of a program are cuBLASLt's: tried and timed on the device, and remembered.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/launches.h"

namespace onnx_fusion::cuda {

// Is there a product among these that is worth a try?
bool worth_trying(const std::vector<Offer>& offers);

// What a choice depends on: the device, the versions, our kernels' texts and, roughly, the sizes
// of the products.
std::string choice_key(const Driver& driver, const Place& place, const Blas& blas,
                       const Plan& own);

// What was chosen under this key, by this process or one before it. False if nothing was.
bool recall_choice(const std::string& key, Choice* choice);
void remember_choice(const std::string& key, const Choice& choice);

// Has this library computed something else than our kernels on this machine?
bool is_distrusted(const Driver& driver, const Place& place, const Blas& blas);

struct Written {  // an output
  void* data;
  DType dtype;
  int64_t elements;
};

struct Trial {
  const Driver& driver;
  const Place& place;
  const Blas& blas;
  std::vector<Written> outputs;
  double tolerance;  // of a result's range
  size_t workspace_bytes;
  Stream stream;
  std::function<std::unique_ptr<const Launches>(const Choice&)> prepare;  // may throw
  std::function<Status(const Launches&)> start;
};

// later: these inputs tell nothing; untried: the library makes none of these products.
enum class Verdict { settled, later, untried };

// Runs our kernels, and with each product made by the library in its several ways; leaves the
// fastest choice whose results are right. The place's context is current. Throws ProgramError.
Verdict find_fastest(const Trial& trial, const Launches& own, Choice* best);

// How far results may lie apart, of their range, where sums come in another order.
double tolerance_of(const Program& program, bool tf32);

}  // namespace onnx_fusion::cuda
