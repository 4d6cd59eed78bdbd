// Compiled kernels in a device's context.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/driver.h"

namespace onnx_fusion::cuda {

// PTX that a model carries: texts one after the other, each behind a line that kPtxMark begins.
inline constexpr std::string_view kPtxMark = "// onnx_fusion ptx\n";

// The text among them that has all these entries; empty if none has.
std::string_view find_ptx(std::string_view embedded, const std::vector<Source>& sources);

// A text's kernels in one context. Unloaded with the last reference.
class Kernels {
 public:
  Kernels(const Driver& driver, Context context, Module module)
      : driver_(driver), context_(context), module_(module) {}
  ~Kernels();
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

  // Throws ProgramError if there is no kernel of this name.
  Function find(const std::string& entry) const;

 private:
  const Driver& driver_;
  Context context_;
  Module module_;
};

// What is compiled for these sources, and under which key of the cache it is kept.
struct Compiled {
  std::string text, key;
};
Compiled describe_compiled(const Driver& driver, int arch, const std::vector<Source>& sources,
                           const std::string& nvrtc);

// The kernels of these sources: those that are loaded already, from the PTX if it has them, from
// the cache on disk, or compiled (`nvrtc` as Compiler::get has it). Throws ProgramError.
std::shared_ptr<const Kernels> load_kernels(const Driver& driver, const Place& place,
                                            const std::vector<Source>& sources,
                                            std::string_view embedded, const std::string& nvrtc);

}  // namespace onnx_fusion::cuda
