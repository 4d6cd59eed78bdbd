// One kernel's text while it is printed, with the arguments its parameters stand for.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cuda/render.h"

namespace onnx_fusion::cuda {

const char* type_name(DType dtype);
std::string literal(DType dtype, uint64_t bits);

// What points to a tensor of the program.
Argument argument_of(const Program& program, int tensor);

class Text {
 public:
  Text(const BoundProgram& bound, bool wide) : bound_(bound), wide_(wide) {}

  const char* index() const { return wide_ ? "long long" : "int"; }  // the type of letters
  bool wide() const { return wide_; }
  void line(const std::string& text);
  void open(const std::string& head);  // "head {", and indents
  void close(const std::string& tail = "}");

  // The parameter that points to a tensor of the program, or to memory of this plan (tensor >= the
  // program's tensors; see Work::scratch).
  std::string pointer(int tensor, bool writes);
  std::string scratch(int buffer, DType dtype, bool writes);
  std::string failure();
  // A number: printed as it is if it is small and `fixed` for all shapes, else a parameter.
  std::string number(int64_t value, bool fixed);
  // "3 * a" and the like; "" for 0 * a.
  std::string times(int64_t factor, bool fixed, const std::string& what);
  // n / divisor, for 0 <= n < 2^31 (wide: any n >= 0).
  std::string quotient(const std::string& n, int64_t divisor, bool fixed);
  std::string fresh(const char* prefix) { return prefix + std::to_string(counter_++); }

  // The kernel: its entry starts with `schedule`, and is followed by a hash of the body.
  Source finish(const std::string& schedule, int threads, int blocks_per_processor = 0) const;
  std::vector<Argument> arguments;  // workspace: the value is a tensor's or buffer's number yet

 private:
  std::string parameter(const std::string& declaration, const std::string& name, Argument argument);

  const BoundProgram& bound_;
  const bool wide_;
  int depth_ = 1, counter_ = 0;
  std::string body_;
  std::vector<std::string> parameters_;
  std::map<int, std::string> pointers_;
  std::map<std::pair<int64_t, bool>, std::string> numbers_;  // value, 64 bits
  std::map<int64_t, std::string> quotients_;
};

}  // namespace onnx_fusion::cuda
