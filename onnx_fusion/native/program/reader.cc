#include "program/reader.h"

namespace onnx_fusion {
namespace {

constexpr size_t kMaxName = 32;
constexpr int64_t kMaxInteger = int64_t{1} << 40;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_word(char c) { return is_digit(c) || is_lower(c) || is_upper(c) || c == '_'; }

bool is_tensor_name(std::string_view word) {
  if (word.empty() || !is_lower(word[0])) return false;
  for (char c : word) {
    if (is_upper(c)) return false;
  }
  return true;
}

}  // namespace

bool is_letter_name(std::string_view word) {
  if (word.empty() || !is_lower(word[0]) || word == "min" || word == "max") return false;
  for (char c : word) {
    if (!is_lower(c) && !is_digit(c)) return false;
  }
  return true;
}

bool is_dim_name(std::string_view word) { return !word.empty() && is_upper(word[0]); }

void Reader::fail(const std::string& what) const {
  throw ProgramError("line " + std::to_string(line_) + ": " + what);
}

bool Reader::at_end() {
  skip();
  return at_ == text_.size();
}

void Reader::expect_end() {
  if (!at_end()) fail("unexpected '" + std::string(text_.substr(at_, 20)) + "'");
}

char Reader::peek() {
  skip();
  return at_ < text_.size() ? text_[at_] : '\0';
}

bool Reader::accept(char c) {
  if (peek() != c) return false;
  ++at_;
  return true;
}

bool Reader::accept(const char* two) {
  skip();
  if (text_.substr(at_, 2) != two) return false;
  at_ += 2;
  return true;
}

void Reader::expect(char c) {
  if (!accept(c)) {
    const char found = peek();
    fail(std::string("expected '") + c + "', found " +
         (found ? "'" + std::string(text_.substr(at_, 20)) + "'" : "the end of the line"));
  }
}

std::string_view Reader::peek_word() {
  skip();
  size_t end = at_;
  if (end < text_.size() && is_digit(text_[end])) return {};
  while (end < text_.size() && is_word(text_[end])) ++end;
  return text_.substr(at_, end - at_);
}

bool Reader::accept_word(std::string_view word) {
  if (peek_word() != word) return false;
  at_ += word.size();
  return true;
}

void Reader::expect_word(std::string_view word) {
  if (!accept_word(word)) fail("expected '" + std::string(word) + "'");
}

std::string_view Reader::word(const char* what) {
  const std::string_view found = peek_word();
  if (found.empty()) fail(std::string("expected ") + what);
  at_ += found.size();
  return found;
}

std::string Reader::tensor_name() {
  const std::string_view found = word("a tensor's name");
  if (!is_tensor_name(found)) {
    fail("'" + std::string(found.substr(0, 40)) + "' is not a tensor's name");
  }
  if (found.size() > kMaxName) fail("a name is longer than 32 characters");
  return std::string(found);
}

std::string Reader::letter_name() {
  const std::string_view found = word("a letter");
  if (!is_letter_name(found)) fail("'" + std::string(found.substr(0, 40)) + "' is not a letter");
  if (found.size() > kMaxName) fail("a name is longer than 32 characters");
  return std::string(found);
}

std::string Reader::dim_name() {
  const std::string_view found = word("a dim's name");
  if (!is_dim_name(found)) fail("'" + std::string(found.substr(0, 40)) + "' is not a dim's name");
  if (found.size() > kMaxName) fail("a name is longer than 32 characters");
  return std::string(found);
}

bool Reader::at_value() {
  return peek() == '%' && at_ + 1 < text_.size() && is_digit(text_[at_ + 1]);
}

int Reader::value() {
  if (!at_value()) fail("expected a value such as %0");
  ++at_;
  int64_t number = 0;
  while (at_ < text_.size() && is_digit(text_[at_])) {
    number = number * 10 + (text_[at_++] - '0');
    if (number > 1000000) fail("a value's number is too large");
  }
  if (at_ < text_.size() && is_word(text_[at_])) fail("a value runs into a name");
  return static_cast<int>(number);
}

int64_t Reader::integer() {
  skip();
  if (at_ == text_.size() || !is_digit(text_[at_])) fail("expected a number");
  int64_t number = 0;
  while (at_ < text_.size() && is_digit(text_[at_])) {
    number = number * 10 + (text_[at_++] - '0');
    if (number > kMaxInteger) fail("a number is over 2^40");
  }
  if (at_ < text_.size() && is_word(text_[at_])) fail("a number runs into a name");
  return number;
}

}  // namespace onnx_fusion
