// NVRTC, the compiler, found at run time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "status.h"

namespace onnx_fusion::cuda {

enum class Form { cubin, ptx };

// There is no compiler, or it cannot be loaded.
class NoCompiler : public ProgramError {
 public:
  using ProgramError::ProgramError;
};

class Compiler {
 public:
  // The compiler at `path`, or where it usually is if that is empty. The same object each time;
  // throws NoCompiler if there is none. The environment variable ONNX_FUSION_NVRTC comes before
  // `path`.
  static const Compiler& get(const std::string& path);
  ~Compiler();
  Compiler(const Compiler&) = delete;
  Compiler& operator=(const Compiler&) = delete;

  // Machine code for `arch` (10 * major + minor), or PTX that this and newer devices take. Throws
  // ProgramError with the first error and the file in `folder` that the text and the whole log are
  // in.
  std::string compile(std::string_view text, int arch, Form form, const std::string& folder) const;

  // What tells this compiler from others without loading it, and what all texts are compiled with:
  // parts of a cache's key.
  static std::string identify(const std::string& path);
  static std::string options();

  // The newest arch up to `arch` for which this compiler makes code; throws ProgramError if there
  // is none.
  int target(int arch) const;
  const std::string& version() const { return version_; }

 private:
  explicit Compiler(const std::string& path);
  [[noreturn]] void report(const std::string& text, const std::string& log, int code,
                           const std::string& folder) const;

  struct Table;
  Table* table_;
  std::string path_, version_;
  std::vector<int> archs_;
};

// The folder of this library; empty if it cannot be told.
std::string library_folder();

// Keeps this library in memory until the process ends, though ONNX Runtime unloads it with its last
// session. False if that cannot be done.
bool stay_loaded();

// PTX whose first line `.version` says the oldest release that knows all it uses, so that older
// drivers take it too: NVRTC writes its own release there.
std::string lower_version(std::string ptx);

}  // namespace onnx_fusion::cuda
