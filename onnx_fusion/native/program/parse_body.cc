// Stages and their bodies (docs/tile_program.md, sections 2 and 5).
#include <algorithm>

#include "program/parser.h"

namespace onnx_fusion {
namespace {

constexpr size_t kMaxStages = 256;

struct OpRow {
  const char* name;
  int arity;
  unsigned types;
  bool gives_bool;
};

#define same false
#define boolean true
#define F kF
#define I kI
#define B kB
#define FI kFI
#define IB kIB
#define FIB kFIB
constexpr OpRow kOps[] = {
#define X(name, arity, types, result, expression) {#name, arity, types, result},
    ONNX_FUSION_ELEMENTWISE(X)
#undef X
#define X(name) {#name, 1, kFI, false},
        ONNX_FUSION_REDUCTIONS(X)
#undef X
#define X(name) {#name, 0, 0, false},
            ONNX_FUSION_STRUCTURAL(X)
#undef X
};
#undef same
#undef boolean
#undef F
#undef I
#undef B
#undef FI
#undef IB
#undef FIB

std::string text(std::string_view word) { return "'" + std::string(word.substr(0, 40)) + "'"; }

}  // namespace

const char* op_name(Op op) { return kOps[static_cast<size_t>(op)].name; }
int op_arity(Op op) { return kOps[static_cast<size_t>(op)].arity; }
bool op_gives_bool(Op op) { return kOps[static_cast<size_t>(op)].gives_bool; }

bool op_accepts(Op op, DType dtype) {
  const unsigned types = kOps[static_cast<size_t>(op)].types;
  if (dtype == DType::f32 || dtype == DType::f64) return types & kF;
  if (dtype == DType::i32 || dtype == DType::i64) return types & kI;
  return dtype == DType::boolean && (types & kB);
}

void Parser::parse_stage(Reader& reader) {
  if (program_.outputs == 0) reader.fail("a stage before the first output");
  if (program_.stages.size() >= kMaxStages) reader.fail("over 256 stages");
  end_stage(reader);
  letters_.clear();
  Stage stage;
  stage.line = reader.line();
  if (!reader.at_end()) {
    do {
      if (stage.letters.size() >= kMaxLetters) reader.fail("over 16 letters in a stage");
      const std::string name = reader.letter_name();
      if (letters_.count(name)) reader.fail("letter " + name + " is defined twice");
      reader.expect(':');
      const ExprId extent = parse_expr(reader, Scope{});
      letters_[name] = static_cast<int>(stage.letters.size());
      stage.letters.push_back({name, extent});
    } while (reader.accept(','));
  }
  program_.stages.push_back(std::move(stage));
}

// A stage ends where the next one begins, or with the text.
void Parser::end_stage(const Reader& reader) {
  if (program_.stages.empty()) return;
  for (const Instruction& line : program_.stages.back().body) {
    if (line.op == Op::op_store) return;
  }
  reader.fail("the stage on line " + std::to_string(program_.stages.back().line) + " has no store");
}

void Parser::end_text(const Reader& reader) {
  if (program_.outputs == 0) reader.fail("the program has no output");
  if (program_.stages.empty()) reader.fail("the program has no stage");
  end_stage(reader);
  for (size_t i = program_.inputs; i < program_.tensors.size(); ++i) {
    if (stored_in_[i] < 0) reader.fail("tensor " + program_.tensors[i].name + " is never stored");
  }
}

const Instruction& Parser::defined(int value) const {
  const Stage& stage = program_.stages.back();
  return stage.body[static_cast<size_t>(stage.values[static_cast<size_t>(value)])];
}

int Parser::operand(Reader& reader, Instruction& line) {
  const int value = reader.value();
  if (value >= static_cast<int>(program_.stages.back().values.size())) {
    reader.fail("%" + std::to_string(value) + " is not defined yet");
  }
  line.args[line.arg_count++] = value;
  line.letters |= defined(value).letters;
  return value;
}

void Parser::parse_instruction(Reader& reader, Instruction& line) {
  const std::string_view name = reader.word("an instruction");
  size_t op = 0;
  while (op < static_cast<size_t>(Op::count) && name != kOps[op].name) ++op;
  if (op == static_cast<size_t>(Op::count) || name == "store") {
    reader.fail("unknown instruction " + text(name));
  }
  line.op = static_cast<Op>(op);
  switch (line.op) {
    case Op::op_load: return parse_load(reader, line);
    case Op::op_index:
      line.dtype = DType::i64;
      line.expr = parse_expr(reader, Scope{true, true});
      line.letters = letters_of(line.expr);
      return;
    case Op::op_const:
      line.dtype = dtype(reader);
      line.literal = reader.literal(line.dtype);
      return;
    case Op::op_cast:
      line.dtype = dtype(reader);
      operand(reader, line);
      return;
    case Op::op_select: return parse_select(reader, line);
    case Op::op_where: {
      const int condition = operand(reader, line);
      const int a = operand(reader, line);
      const int b = operand(reader, line);
      if (defined(condition).dtype != DType::boolean) reader.fail("the condition is not bool");
      if (defined(a).dtype != defined(b).dtype) reader.fail("the operands' types differ");
      line.dtype = defined(a).dtype;
      return;
    }
    default: break;
  }
  if (line.op == Op::op_dot || op_is_reduction(line.op)) return parse_reduction(reader, line);
  parse_elementwise(reader, line);
}

void Parser::parse_elementwise(Reader& reader, Instruction& line) {
  for (int i = 0; i < op_arity(line.op); ++i) operand(reader, line);
  const DType type = defined(line.args[0]).dtype;
  for (int i = 1; i < line.arg_count; ++i) {
    if (defined(line.args[i]).dtype != type) reader.fail("the operands' types differ");
  }
  if (!op_accepts(line.op, type)) {
    reader.fail(std::string(op_name(line.op)) + " does not exist for " + dtype_name(type));
  }
  line.dtype = op_gives_bool(line.op) ? DType::boolean : type;
}

void Parser::parse_reduction(Reader& reader, Instruction& line) {
  const int a = operand(reader, line);
  line.dtype = defined(a).dtype;
  if (line.op == Op::op_dot) {
    const int b = operand(reader, line);
    if (line.dtype != DType::f32 || defined(b).dtype != DType::f32) reader.fail("dot needs f32");
  } else if (!op_accepts(line.op, line.dtype)) {
    reader.fail(std::string(op_name(line.op)) + " does not exist for " + dtype_name(line.dtype));
  }
  reader.expect_word("over");
  do {
    const std::string name = reader.letter_name();
    const auto found = letters_.find(name);
    const LetterSet bit =
        found == letters_.end() ? LetterSet{0} : static_cast<LetterSet>(1u << found->second);
    if (!(bit & line.letters)) reader.fail("no operand depends on letter " + name);
    if (bit & line.over) reader.fail("letter " + name + " is named twice");
    line.over |= bit;
  } while (reader.accept(','));
  line.letters &= static_cast<LetterSet>(~line.over);
}

void Parser::parse_select(Reader& reader, Instruction& line) {
  reader.expect('(');
  do {
    Cond cond{};
    cond.a = parse_expr(reader, Scope{true, true});
    if (reader.accept("<=")) {
      cond.op = CondOp::le;
    } else if (reader.accept("==")) {
      cond.op = CondOp::eq;
    } else {
      reader.expect('<');
      cond.op = CondOp::lt;
    }
    cond.b = parse_expr(reader, Scope{true, true});
    line.letters |= static_cast<LetterSet>(letters_of(cond.a) | letters_of(cond.b));
    line.conds.push_back(cond);
  } while (reader.accept_word("and"));
  reader.expect(')');
  const int a = operand(reader, line);
  const int b = operand(reader, line);
  if (defined(a).dtype != defined(b).dtype) reader.fail("the operands' types differ");
  line.dtype = defined(a).dtype;
}

std::string Parser::find_tensor(Reader& reader, Instruction& line) {
  const std::string name = reader.tensor_name();
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) reader.fail("there is no tensor " + name);
  line.tensor = found->second;
  return name;
}

void Parser::parse_load(Reader& reader, Instruction& line) {
  const std::string name = find_tensor(reader, line);
  const size_t at = static_cast<size_t>(line.tensor);
  const Tensor& tensor = program_.tensors[at];
  const int stage = static_cast<int>(program_.stages.size()) - 1;
  if (tensor.kind != TensorKind::input && (stored_in_[at] < 0 || stored_in_[at] == stage)) {
    reader.fail("tensor " + name + " is not stored by an earlier stage");
  }
  if (loaded_in_[at] < 0) loaded_in_[at] = stage;
  line.dtype = tensor.dtype;
  reader.expect('(');
  while (!reader.accept(')')) {
    if (!line.map.empty()) reader.expect(',');
    Index index;
    if (reader.at_value()) {
      Instruction ignored{};
      index.value = operand(reader, ignored);
      const Instruction& value = defined(index.value);
      if (value.dtype != DType::i64 && value.dtype != DType::i32) {
        reader.fail("an indirect index is neither i64 nor i32");
      }
      line.letters |= value.letters;
    } else {
      index.expr = parse_expr(reader, Scope{true, true});
      line.letters |= letters_of(index.expr);
    }
    line.map.push_back(index);
    if (line.map.size() > tensor.rank()) break;
  }
  if (line.map.size() != tensor.rank()) {
    reader.fail("tensor " + name + " has rank " + std::to_string(tensor.rank()));
  }
  if (reader.accept_word("else")) {
    line.has_else = true;
    line.literal = reader.literal(line.dtype);
  }
}

void Parser::check_term(Reader& reader, ExprId id, bool negative, LetterSet* seen) {
  const ExprNode& node = program_.exprs[static_cast<size_t>(id)];
  const LetterSet letters = letters_of(id);
  if (letters == 0) return;
  const auto is_letter = [&](ExprId e) {
    return program_.exprs[static_cast<size_t>(e)].op == ExprOp::letter;
  };
  const bool term = node.op == ExprOp::letter ||
                    (node.op == ExprOp::mul && ((is_letter(node.a) && letters_of(node.b) == 0) ||
                                                (is_letter(node.b) && letters_of(node.a) == 0)));
  if (!term || negative) reader.fail("a store's index is not a sum of letters times constants");
  if (*seen & letters) reader.fail("a letter occurs twice in a store's map");
  *seen |= letters;
}

void Parser::check_affine(Reader& reader, ExprId id, LetterSet* seen) {
  const ExprNode node = program_.exprs[static_cast<size_t>(id)];
  if (node.op != ExprOp::add && node.op != ExprOp::sub) return check_term(reader, id, false, seen);
  check_affine(reader, node.a, seen);
  if (node.op == ExprOp::sub) return check_term(reader, node.b, true, seen);
  check_affine(reader, node.b, seen);
}

void Parser::parse_store(Reader& reader) {
  reader.expect_word("store");
  Stage& stage = program_.stages.back();
  Instruction line{};
  line.op = Op::op_store;
  line.line = reader.line();
  const std::string name = find_tensor(reader, line);
  const size_t at = static_cast<size_t>(line.tensor);
  const Tensor& tensor = program_.tensors[at];
  if (tensor.kind == TensorKind::input) reader.fail("an input cannot be stored");
  if (loaded_in_[at] >= 0) reader.fail("tensor " + name + " was loaded before");
  stored_in_[at] = static_cast<int>(program_.stages.size()) - 1;
  reader.expect('(');
  LetterSet seen = 0;
  while (!reader.accept(')')) {
    if (!line.map.empty()) reader.expect(',');
    Index index;
    index.expr = parse_expr(reader, Scope{true, true});
    check_affine(reader, index.expr, &seen);
    line.map.push_back(index);
    if (line.map.size() > tensor.rank()) break;
  }
  if (line.map.size() != tensor.rank()) {
    reader.fail("tensor " + name + " has rank " + std::to_string(tensor.rank()));
  }
  operand(reader, line);
  const Instruction& value = defined(line.args[0]);
  if (value.letters & ~seen) reader.fail("the value depends on a letter that is not in the map");
  if (value.dtype != tensor.dtype) reader.fail("the value's type is not the tensor's");
  line.letters = seen;
  line.dtype = value.dtype;
  if (stage.body.size() >= 2048) reader.fail("over 2048 lines in a stage");
  stage.body.push_back(std::move(line));
}

}  // namespace onnx_fusion
