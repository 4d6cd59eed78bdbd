// The custom op: what ONNX Runtime is told about a fused node, and how it runs one.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "ort/abi.h"
#include "program/program.h"

namespace onnx_fusion::ort {

inline constexpr const char* kDomain = "onnx_fusion";
inline constexpr const char* kType = "FusedRegion";
inline constexpr const char* kProgram = "program";
inline constexpr const char* kPtx = "ptx";
inline constexpr const char* kSchedule = "schedule";  // optional: "key=value;..."

struct CudaOptions;

// One registered op type. ONNX Runtime hands it back to every callback.
struct FusedRegion : CustomOp {
  const Api* api;
  std::string type;
  bool cuda_only = false;  // a kernel on the CPU is refused
  const CudaOptions* ahead =
      nullptr;  // if CUDA kernels may be compiled as soon as shapes are known

  FusedRegion(const Api* table, uint32_t table_version, std::string name);
};

// The parsed text, or throws ProgramError. Inference asks for the same texts many times while a
// session is made, so the last ones are kept.
std::shared_ptr<const Program> read_program(std::string_view text);

// Gives every output its type, and its shape as far as those of the inputs are known.
OrtStatus* infer(const CustomOp* op, OrtInferContext* context) noexcept;

// A failed call of ONNX Runtime; never leaves the library.
struct Failure {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status != nullptr) throw Failure{status};
}

// Text that ONNX Runtime copies out: asked for its size first, with the terminator counted.
template <class Read>
std::string read_text(const Read& read) {
  size_t size = 0;
  check(read(nullptr, &size));
  std::string text(size, '\0');
  check(read(text.data(), &size));
  if (size > 0) text.resize(size - 1);
  return text;
}

// "<where>: <what went wrong>" for the exception being handled.
OrtStatus* caught(const Api* api, const std::string& where) noexcept;

}  // namespace onnx_fusion::ort
