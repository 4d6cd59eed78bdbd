#include "program/parser.h"

namespace onnx_fusion {
namespace {

constexpr int kMaxDepth = 24;
constexpr int kMaxNodes = 256;

}  // namespace

LetterSet expr_letters(const Program& program, ExprId expr) {
  const ExprNode& node = program.exprs[static_cast<size_t>(expr)];
  if (node.op == ExprOp::letter) return static_cast<LetterSet>(1u << node.value);
  LetterSet set = 0;
  if (node.a >= 0) set |= expr_letters(program, node.a);
  if (node.b >= 0) set |= expr_letters(program, node.b);
  return set;
}

ExprId Parser::add_node(Reader& reader, ExprNode node) {
  if (++nodes_ > kMaxNodes) reader.fail("an expression has over 256 nodes");
  program_.exprs.push_back(node);
  return static_cast<ExprId>(program_.exprs.size() - 1);
}

ExprId Parser::parse_expr(Reader& reader, Scope scope) {
  nodes_ = 0;
  return parse_sum(reader, scope, 0);
}

ExprId Parser::parse_sum(Reader& reader, Scope scope, int depth) {
  ExprId left = parse_product(reader, scope, depth);
  for (;;) {
    ExprNode node;
    if (reader.accept('+')) {
      node.op = ExprOp::add;
    } else if (reader.accept('-')) {
      node.op = ExprOp::sub;
    } else {
      return left;
    }
    node.a = left;
    node.b = parse_product(reader, scope, depth);
    left = add_node(reader, node);
  }
}

ExprId Parser::parse_product(Reader& reader, Scope scope, int depth) {
  ExprId left = parse_factor(reader, scope, depth);
  for (;;) {
    ExprNode node;
    if (reader.accept('*')) {
      node.op = ExprOp::mul;
    } else if (reader.accept("//")) {
      node.op = ExprOp::div;
    } else if (reader.accept('%')) {
      node.op = ExprOp::mod;
    } else {
      return left;
    }
    node.a = left;
    node.b = parse_factor(reader, scope, depth);
    if (node.op != ExprOp::mul && letters_of(node.b) != 0) {
      reader.fail("a divisor may not contain letters");
    }
    left = add_node(reader, node);
  }
}

ExprId Parser::parse_factor(Reader& reader, Scope scope, int depth) {
  if (depth > kMaxDepth) reader.fail("an expression is nested over 24 deep");
  ExprNode node;
  if (reader.accept('-')) {
    node.op = ExprOp::neg;
    node.a = parse_factor(reader, scope, depth + 1);
    return add_node(reader, node);
  }
  if (reader.accept('(')) {
    const ExprId inner = parse_sum(reader, scope, depth + 1);
    reader.expect(')');
    return inner;
  }
  const std::string_view word = reader.peek_word();
  if (word.empty()) {
    node.op = ExprOp::number;
    node.value = reader.integer();
    return add_node(reader, node);
  }
  if (word == "min" || word == "max") {
    node.op = word == "min" ? ExprOp::min : ExprOp::max;
    reader.expect_word(word);
    reader.expect('(');
    node.a = parse_sum(reader, scope, depth + 1);
    reader.expect(',');
    node.b = parse_sum(reader, scope, depth + 1);
    reader.expect(')');
    return add_node(reader, node);
  }
  if (is_dim_name(word)) {
    const std::string name = reader.dim_name();
    const auto found = dims_.find(name);
    if (found == dims_.end()) reader.fail("dim " + name + " is not bound yet");
    node.op = ExprOp::dim;
    node.value = found->second;
    return add_node(reader, node);
  }
  const std::string name = reader.letter_name();
  if (!scope.letters) reader.fail("letter " + name + " where only dims may be used");
  const auto found = letters_.find(name);
  if (found == letters_.end()) reader.fail("letter " + name + " is not one of this stage's");
  node.op = ExprOp::letter;
  node.value = found->second;
  return add_node(reader, node);
}

}  // namespace onnx_fusion
