// How errors travel: ProgramError while a text is read, Status everywhere after that.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace onnx_fusion {

class ProgramError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A program that is valid, but has a stage that no kernel here runs.
class Unrunnable : public ProgramError {
 public:
  using ProgramError::ProgramError;
};

// An empty message is success; making one allocates nothing.
struct [[nodiscard]] Status {
  std::string message;

  Status() = default;
  explicit Status(std::string text) : message(std::move(text)) {}
  bool ok() const { return message.empty(); }
};

}  // namespace onnx_fusion
