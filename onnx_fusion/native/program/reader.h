// Characters of one line of a program: the tokens of docs/tile_program.md, section 2.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "dtype.h"
#include "status.h"

namespace onnx_fusion {

class Reader {
 public:
  Reader(std::string_view line, int number) : text_(line), line_(number) {}

  [[noreturn]] void fail(const std::string& what) const;
  int line() const { return line_; }
  bool at_end();
  void expect_end();

  // Punctuation. `accept` consumes the token if it is next.
  bool accept(char c);
  bool accept(const char* two);
  void expect(char c);
  char peek();  // the next character that is no space; 0 at the end

  // Words: a letter or underscore, then letters, digits and underscores.
  bool accept_word(std::string_view word);
  void expect_word(std::string_view word);
  std::string_view peek_word();  // empty if no word is next
  std::string_view word(const char* what);

  std::string tensor_name();
  std::string letter_name();
  std::string dim_name();

  bool at_value();           // is a VALUE next
  int value();               // %k
  int64_t integer();         // INT
  uint64_t literal(DType d);  // the bits in d

 private:
  void skip() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  std::string_view text_;
  size_t at_ = 0;
  int line_;
};

bool is_letter_name(std::string_view word);
bool is_dim_name(std::string_view word);

// A double rounded to nearest even in f16 or bf16.
uint16_t round_f16(double value);
uint16_t round_bf16(double value);

}  // namespace onnx_fusion
