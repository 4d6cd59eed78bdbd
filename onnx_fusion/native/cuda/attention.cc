// Attention by tiles, after Dao et al., FlashAttention, algorithm 1, and FlashAttention-2,
// section 3.1: a warp has 16 rows, and goes over all columns with the maximum and the sum so far;
// scores never leave registers. What the stages do around the products happens there too.
#include "cuda/attention.h"

#include <algorithm>

namespace onnx_fusion::cuda {
namespace {

constexpr int kWarps = 4, kRows = 16 * kWarps, kColumns = 64;
constexpr int kPad = 8;     // halves
constexpr int kBlocks = 3;  // of a processor: leaves each thread 168 registers

std::string s(int64_t value) { return std::to_string(value); }
int64_t round_up(int64_t value) { return (value + 15) / 16 * 16; }

class Printer {
 public:
  Printer(Work& work, const Nest& scores, const Nest& softmax, const Nest& result,
          const Attention& a)
      : work_(work),
        scores_(scores),
        softmax_(softmax),
        result_(result),
        a_(a),
        text_(work.bound, false) {}

  Text& print();
  int64_t shared_bytes() const {
    return 2 * ((kRows + kColumns) * (depth_ + kPad) + width_ * (kColumns + kPad));
  }

 private:
  struct Part {  // of an operand, as it lies in shared memory: [own][sum]
    const char* tile;
    const char *own_from, *sum_from;  // expressions
    int64_t own, sum;                 // positions of the tile
    int64_t own_all, sum_all;         // of the operand
  };
  void fill(const Nest& nest, const Product& product, const Operand& operand, const Part& part);
  void multiply_scores();
  void change_scores();
  void sum_rows();
  void multiply_result();
  void finish();
  std::string unit() const { return a_.scores.unit == Unit::f16 ? "f16" : "bf16"; }

  Work& work_;
  const Nest &scores_, &softmax_, &result_;
  const Attention& a_;
  Text text_;
  const int64_t depth_ = round_up(a_.scores.k), width_ = round_up(a_.result.n);
};

void Printer::fill(const Nest& nest, const Product& product, const Operand& operand,
                   const Part& part) {
  Body body(nest, text_);
  body.memory_aligned = work_.device.aligned;
  choose_lanes(body, (operand.sum_fastest ? operand.sum : operand.own).back());
  const int lanes = body.lanes;
  const int64_t fast = (operand.sum_fastest ? part.sum : part.own) / lanes;
  const int64_t count = part.own * part.sum / lanes;
  body.enter("for (int f = thread; f < " + s(count) + "; f += " + s(32 * kWarps) + ")");
  const std::string along = "f % " + s(fast) + " * " + s(lanes), across = "f / " + s(fast);
  text_.line("const int in_sum = " + (operand.sum_fastest ? along : across) + ";");
  text_.line("const int in_own = " + (operand.sum_fastest ? across : along) + ";");
  const int sum_lanes = operand.sum_fastest ? lanes : 1,
            own_lanes = operand.sum_fastest ? 1 : lanes;
  const std::string sum_all = text_.number(part.sum_all, false),
                    own_all = text_.number(part.own_all, false);
  const auto position = [&](const std::string& name, const std::string& at, const std::string& all,
                            int by) {
    text_.line("const int " + name + " = min(" + at + ", " + all + " - " + s(by) + ")" +
               (by > 1 ? " / " + s(by) : "") + ";");
  };
  text_.line("const int sum_at = " + std::string(part.sum_from) + " + in_sum;");
  position("k", "sum_at", sum_all, sum_lanes);
  position("m", std::string(part.own_from) + " + in_own", own_all, own_lanes);
  body.decompose("batch", product.batch_order);
  body.decompose("k", operand.sum, sum_lanes);
  body.decompose("m", operand.own, own_lanes);
  body.need(operand.line);
  const std::string stride = s(part.sum + kPad);
  const auto element = [&](int lane) {
    return as_element(product.unit, nest.dtype(operand.line), body.name(operand.line, lane));
  };
  if (operand.sum_fastest) {
    std::string list;
    for (int lane = 0; lane < lanes; ++lane) {
      text_.line("const unsigned short u_" + s(lane) + " = sum_at < " + sum_all + " ? " +
                 element(lane) + " : 0;");
      list += (lane > 0 ? ", u_" : "u_") + s(lane);
    }
    text_.line("*(Pack<unsigned short, " + s(lanes) + ">*)(" + part.tile + " + in_own * " + stride +
               " + in_sum) = {{" + list + "}};");
  } else {
    for (int lane = 0; lane < lanes; ++lane) {
      text_.line(std::string(part.tile) + "[(in_own + " + s(lane) + ") * " + stride +
                 " + in_sum] = sum_at < " + sum_all + " ? " + element(lane) + " : 0;");
    }
  }
  body.leave();
}

// 16 rows of scores for each warp: a thread has those of two rows, in pairs of columns.
void Printer::multiply_scores() {
  const std::string stride = s((depth_ + kPad) / 2);
  text_.line("float scores[" + s(kColumns / 8) + "][4] = {};");
  text_.line("#pragma unroll");
  text_.open("for (int part = 0; part < " + s(depth_ / 2) + "; part += 8)");
  text_.line("const unsigned* const from = (const unsigned*)tile_q + (warp * 16 + lane / 4) * " +
             stride + " + part + lane % 4;");
  text_.line("const unsigned x[4] = {from[0], from[8 * " + stride + "], from[4], from[8 * " +
             stride + " + 4]};");
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(kColumns / 8) + "; ++j)");
  text_.line("const unsigned* const other = (const unsigned*)tile_k + (j * 8 + lane / 4) * " +
             stride + " + part + lane % 4;");
  text_.line("const unsigned y[2] = {other[0], other[4]};");
  text_.line("multiply_" + unit() + "(scores[j], x, y);");
  text_.close();
  text_.close();
}

// Everything between the first product and the softmax.
void Printer::change_scores() {
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < 2; ++i)");
  text_.line("const int m = min(first_row + warp * 16 + i * 8 + lane / 4, " +
             text_.number(a_.scores.m, false) + " - 1);");
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(kColumns / 4) + "; ++j)");
  text_.line("const int column = first_column + j / 2 * 8 + lane % 4 * 2 + j % 2;");
  const std::string columns = text_.number(a_.scores.n, false);
  text_.line("const int n = min(column, " + columns + " - 1);");
  text_.line("float score = scores[j / 2][i * 2 + j % 2];");
  {
    Body body(scores_, text_);
    body.enter("");
    body.decompose("batch", a_.scores.batch_order);
    body.decompose("m", a_.scores.a.own);
    body.decompose("n", a_.scores.b.own);
    body.give(a_.scores.dot, "score");
    int value = scores_.needs(scores_.stores[0])[0];
    if (scores_.at(value).op == Op::op_cast) {
      value = scores_.needs(value)[0];  // rounded once, at the end
    }
    body.need(value);
    if (body.name(value) != "score") text_.line("score = " + body.name(value) + ";");
    body.leave();
  }
  {
    Body body(softmax_, text_);
    const Access& access = softmax_.access[static_cast<size_t>(a_.scores_load)];
    const LetterSet all = softmax_.letters[static_cast<size_t>(a_.scores_load)];
    const size_t store = static_cast<size_t>(softmax_.stores[0]);
    body.enter("");
    LetterSet reduced = 0;
    for (size_t i = 0; i < softmax_.lines(); ++i) reduced |= softmax_.over[i];
    const LetterSet kept = static_cast<LetterSet>(softmax_.letters[store] & ~reduced);
    text_.line("const int row = batch * " + text_.number(a_.scores.m, false) + " + m;");
    body.decompose("row", softmax_.order(kept, access));
    body.decompose("n", softmax_.order(reduced & all, access));
    const bool half = softmax_.dtype(a_.scores_load) != DType::f32;
    if (half) {
      for (size_t i = 0; i < softmax_.lines(); ++i) {
        const int line = static_cast<int>(i);
        if (softmax_.is_live(line) && softmax_.at(line).op == Op::op_cast &&
            softmax_.needs(line)[0] == a_.scores_load) {
          body.give(line, "score");
        }
      }
    } else {
      body.give(a_.scores_load, "score");
    }
    body.need(a_.logits);
    if (body.name(a_.logits) != "score") text_.line("score = " + body.name(a_.logits) + ";");
    body.leave();
  }
  text_.line("scores[j / 2][i * 2 + j % 2] = column < " + columns +
             " ? score : __uint_as_float(0xff800000u);");
  text_.close();
  text_.close();
}

// The maximum and the sum so far; what was summed for another maximum is scaled.
void Printer::sum_rows() {
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < 2; ++i)");
  text_.line("float most = top[i];");
  text_.line("#pragma unroll");
  text_.line("for (int j = 0; j < " + s(kColumns / 4) +
             "; ++j) most = m_max(most, scores[j / 2][i * 2 + j % 2]);");
  text_.line("most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 1));");
  text_.line("most = m_max(most, __shfl_xor_sync(0xffffffffu, most, 2));");
  // A row of which nothing counts yet has no maximum.
  text_.line("const float base = most == __uint_as_float(0xff800000u) ? 0.0f : most;");
  text_.line("const float scale = expf(top[i] - base);");
  text_.line("top[i] = most;");
  text_.line("total[i] *= scale;");
  text_.line("#pragma unroll");
  text_.open("for (int d = 0; d < " + s(width_ / 4) + "; ++d)");
  text_.line("sums[d / 2][i * 2 + d % 2] *= scale;");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(kColumns / 4) + "; ++j)");
  text_.line("const float weight = expf(scores[j / 2][i * 2 + j % 2] - base);");
  text_.line("scores[j / 2][i * 2 + j % 2] = weight;");
  text_.line("total[i] += weight;");
  text_.close();
  text_.close();
}

// The sums of two products' tiles lie in registers as the operand of the next product needs them.
void Printer::multiply_result() {
  const std::string convert = a_.scores.unit == Unit::f16 ? "float_to_half" : "float_to_bf16";
  const std::string stride = s((kColumns + kPad) / 2);
  text_.line("#pragma unroll");
  text_.open("for (int part = 0; part < " + s(kColumns / 16) + "; ++part)");
  text_.line("unsigned x[4];");
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < 4; ++i)");
  text_.line("const float* const pair = &scores[part * 2 + i / 2][i % 2 * 2];");
  text_.line("x[i] = " + convert + "(pair[0]) | (unsigned)" + convert + "(pair[1]) << 16;");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int d = 0; d < " + s(width_ / 8) + "; ++d)");
  text_.line("const unsigned* const from = (const unsigned*)tile_v + (d * 8 + lane / 4) * " +
             stride + " + part * 8 + lane % 4;");
  text_.line("const unsigned y[2] = {from[0], from[4]};");
  text_.line("multiply_" + unit() + "(sums[d], x, y);");
  text_.close();
  text_.close();
}

void Printer::finish() {
  Body body(result_, text_);
  body.memory_aligned = work_.device.aligned;
  const Product& p = a_.result;
  choose_lanes(body, p.b.own.back());
  body.lanes = std::min(body.lanes, 2);
  const int lanes = body.lanes;
  body.decompose("batch", p.batch_order);
  text_.line("#pragma unroll");
  body.enter("for (int i = 0; i < 2; ++i)");
  text_.line("total[i] += __shfl_xor_sync(0xffffffffu, total[i], 1);");
  text_.line("total[i] += __shfl_xor_sync(0xffffffffu, total[i], 2);");
  text_.line("const float share = __fdividef(1.0f, total[i]);");
  text_.line("const int m = first_row + warp * 16 + i * 8 + lane / 4;");
  text_.line("if (m >= " + text_.number(p.m, false) + ") continue;");
  body.decompose("m", p.a.own);
  text_.line("#pragma unroll");
  body.enter("for (int d = 0; d < " + s(width_ / 4) + "; d += " + s(lanes) + ")");
  text_.line("const int n = d / 2 * 8 + lane % 4 * 2 + d % 2;");
  text_.line("if (n >= " + text_.number(p.n, false) + ") continue;");
  if (lanes > 1) text_.line("const int run = n / " + s(lanes) + ";");
  body.decompose(lanes > 1 ? "run" : "n", p.b.own, lanes);
  for (int lane = 0; lane < lanes; ++lane) {
    text_.line("const float sum" + (lanes > 1 ? "_" + s(lane) : "") +
               " = sums[d / 2][i * 2 + d % 2" + (lane > 0 ? " + " + s(lane) : "") + "] * share;");
  }
  body.give(p.dot, "sum", lanes > 1);
  for (int line : result_.stores) body.store(line);
  body.leave();
  body.leave();
}

Text& Printer::print() {
  const int64_t tiles = (a_.scores.m + kRows - 1) / kRows;
  text_.line("const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;");
  text_.line("const int tile = blockIdx.x;");
  text_.line("const int batch = " + text_.quotient("tile", tiles, false) + ";");
  text_.line("const int first_row = (tile - batch * " + text_.number(tiles, false) + ") * " +
             s(kRows) + ";");
  text_.line("unsigned short* const tile_q = (unsigned short*)shared_bytes();");
  text_.line("unsigned short* const tile_k = tile_q + " + s(kRows * (depth_ + kPad)) + ";");
  text_.line("unsigned short* const tile_v = tile_k + " + s(kColumns * (depth_ + kPad)) + ";");
  text_.line("float sums[" + s(width_ / 8) + "][4] = {};");
  text_.line(
      "float top[2] = {__uint_as_float(0xff800000u), __uint_as_float(0xff800000u)}, total[2] = "
      "{};");
  fill(scores_, a_.scores, a_.scores.a,
       {"tile_q", "first_row", "0", kRows, depth_, a_.scores.m, a_.scores.k});
  text_.open("for (int first_column = 0; first_column < " + text_.number(a_.scores.n, false) +
             "; first_column += " + s(kColumns) + ")");
  fill(scores_, a_.scores, a_.scores.b,
       {"tile_k", "first_column", "0", kColumns, depth_, a_.scores.n, a_.scores.k});
  fill(result_, a_.result, a_.result.b,
       {"tile_v", "0", "first_column", width_, kColumns, a_.result.n, a_.result.k});
  text_.line("__syncthreads();");
  multiply_scores();
  change_scores();
  sum_rows();
  multiply_result();
  text_.line("__syncthreads();");
  text_.close();
  finish();
  return text_;
}

}  // namespace

Status plan_attention(Work& work, size_t stage, const Nest& scores, const Nest& softmax,
                      const Nest& result, const Attention& attention) {
  Printer printer(work, scores, softmax, result, attention);
  const Text& text = printer.print();
  Shape shape;
  shape.grid[0] = attention.scores.batches * ((attention.scores.m + kRows - 1) / kRows);
  shape.block[0] = 32 * kWarps;
  shape.shared_bytes = printer.shared_bytes();
  return work.add(stage, attention.scores.unit == Unit::f16 ? "attention_f16" : "attention_bf16",
                  text, shape, kBlocks);
}

}  // namespace onnx_fusion::cuda
