// Header, tensors and dims (docs/tile_program.md, sections 2 to 4), and the order of lines.
#include <algorithm>

#include "program/parser.h"

namespace onnx_fusion {
namespace {

constexpr size_t kMaxText = size_t{1} << 20;
constexpr size_t kMaxInputs = 256, kMaxOutputs = 64, kMaxTemps = 256, kMaxDims = 128;

}  // namespace

Program parse(std::string_view text) { return Parser().parse(text); }

Program Parser::parse(std::string_view text) {
  if (text.size() > kMaxText) throw ProgramError("line 1: the text is over 1 MiB");
  int number = 0;
  bool ended = false;
  Reader last(std::string_view(), 1);
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    Reader reader(line, ++number);
    for (char c : line) {
      if (c < 0x20 || c > 0x7e) reader.fail("a character that is not printable ASCII");
    }
    if (line.empty()) {
      ended = true;
      continue;
    }
    if (ended) Reader(line, number - 1).fail("an empty line before the end");
    if (number == 1) {
      parse_header(reader);
    } else {
      parse_line(reader);
    }
    reader.expect_end();
    last = reader;
  }
  if (number == 0) last.fail("the text is empty");
  end_text(last);
  return std::move(program_);
}

void Parser::parse_header(Reader& reader) {
  reader.expect_word("tile_program");
  const int64_t version = reader.integer();
  if (version != 1) {
    reader.fail("needs tile program " + std::to_string(version) +
                ", but this library reads 1; reinstall onnx_fusion");
  }
  program_.strict = reader.accept_word("strict");
}

void Parser::parse_line(Reader& reader) {
  const bool in_stage = !program_.stages.empty();
  if (reader.peek() == '%' || reader.peek_word() == "store") {
    if (!in_stage) reader.fail("an instruction before the first stage");
    if (reader.peek() != '%') return parse_store(reader);
    Stage& stage = program_.stages.back();
    const int value = reader.value();
    if (value != static_cast<int>(stage.values.size())) {
      reader.fail("expected %" + std::to_string(stage.values.size()) + ", found %" +
                  std::to_string(value));
    }
    reader.expect('=');
    Instruction line{};
    line.line = reader.line();
    parse_instruction(reader, line);
    if (stage.body.size() >= 2048) reader.fail("over 2048 lines in a stage");
    stage.values.push_back(static_cast<int>(stage.body.size()));
    stage.body.push_back(std::move(line));
    return;
  }
  const std::string_view word = reader.word("input, dim, temp, output, stage, store or a value");
  if (word == "stage") return parse_stage(reader);
  const bool known = word == "input" || word == "dim" || word == "temp" || word == "output";
  if (!known) reader.fail("unknown line '" + std::string(word.substr(0, 40)) + "'");
  if (in_stage) reader.fail("'" + std::string(word) + "' after the first stage");
  if (program_.outputs > 0 && word != "output") {
    reader.fail("'" + std::string(word) + "' after an output");
  }
  if (program_.temps > 0 && (word == "input" || word == "dim")) {
    reader.fail("'" + std::string(word) + "' after a temp");
  }
  if (word == "dim") return parse_dim(reader);
  if (word == "input") {
    for (const Dim& dim : program_.dims) {
      if (dim.expr >= 0) reader.fail("'input' after a dim line");
    }
    if (++program_.inputs > kMaxInputs) reader.fail("over 256 inputs");
    return parse_tensor(reader, TensorKind::input);
  }
  if (word == "temp") {
    if (++program_.temps > kMaxTemps) reader.fail("over 256 temps");
    return parse_tensor(reader, TensorKind::temp);
  }
  if (++program_.outputs > kMaxOutputs) reader.fail("over 64 outputs");
  parse_tensor(reader, TensorKind::output);
}

DType Parser::dtype(Reader& reader) {
  const std::string_view word = reader.word("a type");
  for (size_t i = 0; i < kDTypeCount; ++i) {
    if (word == kDTypeNames[i]) return static_cast<DType>(i);
  }
  reader.fail("'" + std::string(word.substr(0, 40)) + "' is not a type");
}

void Parser::parse_tensor(Reader& reader, TensorKind kind) {
  Tensor tensor;
  tensor.kind = kind;
  tensor.name = reader.tensor_name();
  if (tensors_.count(tensor.name)) reader.fail("tensor " + tensor.name + " is defined twice");
  tensor.dtype = dtype(reader);
  reader.expect('[');
  while (!reader.accept(']')) {
    if (!tensor.shape.empty()) reader.expect(',');
    if (tensor.shape.size() >= kMaxRank) reader.fail("the rank is over 16");
    // A bare name that is not known yet binds it; the scanner is copied to look ahead.
    Reader ahead = reader;
    const std::string_view word = ahead.peek_word();
    int binds = -1;
    if (kind == TensorKind::input && is_dim_name(word)) {
      const std::string name = ahead.dim_name();
      const char next = ahead.peek();
      if (!dims_.count(name) && (next == ',' || next == ']')) {
        if (program_.dims.size() >= kMaxDims) reader.fail("over 128 dims");
        binds = static_cast<int>(program_.dims.size());
        dims_[name] = binds;
        program_.dims.push_back({name, -1});
      }
    }
    tensor.shape.push_back(parse_expr(reader, Scope{}));
    tensor.binds.push_back(binds);
  }
  const std::string_view layout = reader.word("row or order");
  if (layout == "row") {
    for (size_t i = 0; i < tensor.rank(); ++i) tensor.order.push_back(static_cast<uint8_t>(i));
  } else if (layout == "order") {
    reader.expect('(');
    uint32_t seen = 0;
    do {
      const int64_t dim = reader.integer();
      if (dim >= static_cast<int64_t>(tensor.rank()) || (seen >> dim & 1)) {
        reader.fail("the order is not a permutation of the dims");
      }
      seen |= 1u << dim;
      tensor.order.push_back(static_cast<uint8_t>(dim));
    } while (reader.accept(','));
    reader.expect(')');
    if (tensor.order.size() != tensor.rank()) {
      reader.fail("the order is not a permutation of the dims");
    }
  } else {
    reader.fail("expected row or order");
  }
  if (kind == TensorKind::input && reader.accept_word("as")) parse_as(reader, tensor);
  tensors_[tensor.name] = static_cast<int>(program_.tensors.size());
  program_.tensors.push_back(std::move(tensor));
  stored_in_.push_back(-1);
  loaded_in_.push_back(-1);
}

void Parser::parse_as(Reader& reader, Tensor& tensor) {
  reader.expect('(');
  do {
    const std::string name = reader.dim_name();
    if (tensor.contents.size() >= 16) reader.fail("'as' has over 16 names");
    if (const auto known = dims_.find(name); known != dims_.end()) {
      tensor.contents.push_back(known->second);
      continue;
    }
    if (program_.dims.size() >= kMaxDims) reader.fail("over 128 dims");
    dims_[name] = static_cast<int>(program_.dims.size());
    tensor.contents.push_back(static_cast<int>(program_.dims.size()));
    program_.dims.push_back({name, -1});
  } while (reader.accept(','));
  reader.expect(')');
  if (tensor.dtype != DType::i64 && tensor.dtype != DType::i32) {
    reader.fail("'as' needs an i64 or i32 tensor");
  }
  const int64_t names = static_cast<int64_t>(tensor.contents.size());
  const auto is_count = [&](ExprId id) {
    const ExprNode& node = program_.exprs[static_cast<size_t>(id)];
    return node.op == ExprOp::number && node.value == names;
  };
  if (!(tensor.rank() == 0 && names == 1) && !(tensor.rank() == 1 && is_count(tensor.shape[0]))) {
    reader.fail("'as' needs rank 0 and one name, or rank 1 and as many names as elements");
  }
}

void Parser::parse_dim(Reader& reader) {
  const std::string name = reader.dim_name();
  if (dims_.count(name)) reader.fail("dim " + name + " is defined twice");
  if (program_.dims.size() >= kMaxDims) reader.fail("over 128 dims");
  reader.expect('=');
  const ExprId expr = parse_expr(reader, Scope{});
  dims_[name] = static_cast<int>(program_.dims.size());
  program_.dims.push_back({name, expr});
}

}  // namespace onnx_fusion
