// The parser's state; its methods are in parse.cc (tensors), parse_expr.cc and parse_body.cc.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "program/program.h"
#include "program/reader.h"

namespace onnx_fusion {

class Parser {
 public:
  Program parse(std::string_view text);

 private:
  // What names an expression may use.
  struct Scope {
    bool dims = true;
    bool letters = false;
  };

  void parse_header(Reader& reader);
  void parse_tensor(Reader& reader, TensorKind kind);
  void parse_as(Reader& reader, Tensor& tensor);
  void parse_dim(Reader& reader);
  void parse_stage(Reader& reader);
  void parse_line(Reader& reader);
  void end_stage(const Reader& reader);
  void end_text(const Reader& reader);

  void parse_instruction(Reader& reader, Instruction& line);
  // Reads a tensor's name, which it returns, and sets the line's tensor.
  std::string find_tensor(Reader& reader, Instruction& line);
  void parse_load(Reader& reader, Instruction& line);
  void parse_store(Reader& reader);
  void parse_select(Reader& reader, Instruction& line);
  void parse_reduction(Reader& reader, Instruction& line);
  void parse_elementwise(Reader& reader, Instruction& line);
  int operand(Reader& reader, Instruction& line);
  DType dtype(Reader& reader);
  const Instruction& defined(int value) const;
  void check_affine(Reader& reader, ExprId expr, LetterSet* seen);
  void check_term(Reader& reader, ExprId expr, bool negative, LetterSet* seen);

  ExprId parse_expr(Reader& reader, Scope scope);
  ExprId parse_sum(Reader& reader, Scope scope, int depth);
  ExprId parse_product(Reader& reader, Scope scope, int depth);
  ExprId parse_factor(Reader& reader, Scope scope, int depth);
  ExprId add_node(Reader& reader, ExprNode node);
  LetterSet letters_of(ExprId expr) const { return expr_letters(program_, expr); }

  Program program_;
  std::map<std::string, int, std::less<>> tensors_, dims_, letters_;
  std::vector<int> stored_in_,
      loaded_in_;  // per tensor: the last stage that stores, first that loads
  int nodes_ = 0;                           // of the expression being read
};

}  // namespace onnx_fusion
