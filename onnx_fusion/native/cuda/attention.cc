// Attention by tiles, after Dao et al., FlashAttention, algorithm 1, and FlashAttention-2,
// section 3.1: a warp has 16 rows or fewer, and goes over all columns with the maximum and the sum
// so far; scores never reach memory. What the stages do around the products happens there too.
#include "cuda/attention_tile.h"

#include <algorithm>

namespace onnx_fusion::cuda {
namespace {

constexpr int kWarps = AttentionTile::kWarps;
constexpr int kBlocks = 3;  // of a processor: leaves each thread 168 registers

std::string s(int64_t value) { return std::to_string(value); }

class Printer {
 public:
  Printer(Work& work, const Nest& scores, const Nest& softmax, const Nest& result,
          const Attention& a)
      : work_(work),
        scores_(scores),
        softmax_(softmax),
        result_(result),
        a_(a),
        tile_(a, work.device),
        text_(work.bound, false) {}

  Text& print();
  const AttentionTile& tile() const { return tile_; }

 private:
  struct Part {  // of an operand, in shared memory
    const char* tile;
    const char *own_from, *sum_from;  // expressions
    int64_t own, sum;                 // positions of the tile
    int64_t own_all, sum_all;         // of the operand
    bool result;                      // does it belong to the second product
  };
  void fill(const Nest& nest, const Product& product, const Operand& operand, const Part& part);
  void keep(const Part& part, bool along_sum, const std::vector<std::string>& values);
  void change_scores();
  void add_lanes(const char* before, const char* what, const char* after);
  void sum_rows();
  void finish();

  Work& work_;
  const Nest &scores_, &softmax_, &result_;
  const Attention& a_;
  const AttentionTile tile_;
  Text text_;
};

void Printer::fill(const Nest& nest, const Product& product, const Operand& operand,
                   const Part& part) {
  Body body(nest, text_);
  body.memory_aligned = work_.device.aligned;
  choose_lanes(body, (operand.sum_fastest ? operand.sum : operand.own).back());
  if (!tile_.halves()) body.lanes = std::min(body.lanes, 4);
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
  std::vector<std::string> values;
  for (int lane = 0; lane < lanes; ++lane) {
    values.push_back(
        "sum_at < " + sum_all + " ? " +
        as_element(product.unit, nest.dtype(operand.line), body.name(operand.line, lane)) +
        (tile_.cores() ? " : 0" : " : 0.0f"));
  }
  keep(part, operand.sum_fastest, values);
  body.leave();
}

// Puts neighbouring elements of an operand into shared memory: at once, where they are neighbours
// there.
void Printer::keep(const Part& part, bool along_sum, const std::vector<std::string>& values) {
  const std::string stride = s(tile_.stride(part.own, part.sum, part.result));
  const std::string type = tile_.element();
  const auto place = [&](int lane) {
    const auto next = [&](const char* at) {
      return lane > 0 ? std::string("(") + at + " + " + s(lane) + ")" : std::string(at);
    };
    const std::string own = along_sum ? "in_own" : next("in_own"),
                      sum = along_sum ? next("in_sum") : "in_sum";
    return tile_.cores() ? own + " * " + stride + " + " + sum
                         : sum + " * " + stride + " + (" + own + " / 4 ^ in_sum / 4 % 8) * 4 + " +
                               own + " % 4";
  };
  if (values.size() == 1 || along_sum != tile_.cores()) {
    for (size_t lane = 0; lane < values.size(); ++lane) {
      text_.line(std::string(part.tile) + "[" + place(static_cast<int>(lane)) +
                 "] = " + values[lane] + ";");
    }
    return;
  }
  std::string list;
  for (size_t lane = 0; lane < values.size(); ++lane) {
    const std::string name = "u_" + s(static_cast<int64_t>(lane));
    text_.line("const " + type + " " + name + " = " + values[lane] + ";");
    list += (lane > 0 ? ", " : "") + name;
  }
  text_.line("*(Pack<" + type + ", " + s(static_cast<int64_t>(values.size())) + ">*)(" + part.tile +
             " + " + place(0) + ") = {{" + list + "}};");
}

// Everything between the first product and the softmax.
void Printer::change_scores() {
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(tile_.each) + "; ++i)");
  text_.line("const int m = min(first_row + " + tile_.row() + ", " +
             text_.number(a_.scores.m, false) + " - 1);");
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(tile_.of_row(tile_.columns)) + "; ++j)");
  text_.line("const int column = first_column + " + tile_.column("j", tile_.columns) + ";");
  const std::string columns = text_.number(a_.scores.n, false);
  text_.line("const int n = min(column, " + columns + " - 1);");
  text_.line("float score = " + tile_.value("scores", "j") + ";");
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
  text_.line(tile_.value("scores", "j") + " = column < " + columns +
             " ? score : __uint_as_float(0xff800000u);");
  text_.close();
  text_.close();
}

// Prints a line for each step of what the lanes of a row do with each other's values.
void Printer::add_lanes(const char* before, const char* what, const char* after) {
  for (int by = 1; by < tile_.lanes(); by *= 2) {
    text_.line(std::string(before) + "__shfl_xor_sync(0xffffffffu, " + what + ", " + s(by) + ")" +
               after + ";");
  }
}

// The maximum and the sum so far; what was summed for another maximum is scaled.
void Printer::sum_rows() {
  const std::string columns = s(tile_.of_row(tile_.columns)), score = tile_.value("scores", "j");
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(tile_.each) + "; ++i)");
  text_.line("float most = top[i];");
  text_.line("#pragma unroll");
  text_.line("for (int j = 0; j < " + columns + "; ++j) most = m_max(most, " + score + ");");
  add_lanes("most = m_max(most, ", "most", ")");
  // A row of which nothing counts yet has no maximum.
  text_.line("const float base = most == __uint_as_float(0xff800000u) ? 0.0f : most;");
  text_.line("const float scale = expf(top[i] - base);");
  text_.line("top[i] = most;");
  text_.line("total[i] *= scale;");
  text_.line("#pragma unroll");
  text_.open("for (int d = 0; d < " + s(tile_.of_row(tile_.width)) + "; ++d)");
  text_.line(tile_.value("sums", "d") + " *= scale;");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + columns + "; ++j)");
  text_.line("const float weight = expf(" + score + " - base);");
  text_.line(score + " = weight;");
  text_.line("total[i] += weight;");
  text_.close();
  text_.close();
}

void Printer::finish() {
  Body body(result_, text_);
  body.memory_aligned = work_.device.aligned;
  const Product& p = a_.result;
  choose_lanes(body, p.b.own.back());
  body.lanes = std::min(body.lanes, tile_.run(tile_.width));
  const int lanes = body.lanes;
  body.decompose("batch", p.batch_order);
  text_.line("#pragma unroll");
  body.enter("for (int i = 0; i < " + s(tile_.each) + "; ++i)");
  add_lanes("total[i] += ", "total[i]", "");
  text_.line("const float share = __fdividef(1.0f, total[i]);");
  text_.line("const int m = first_row + " + tile_.row() + ";");
  text_.line("if (m >= " + text_.number(p.m, false) + ") continue;");
  body.decompose("m", p.a.own);
  text_.line("#pragma unroll");
  body.enter("for (int d = 0; d < " + s(tile_.of_row(tile_.width)) + "; d += " + s(lanes) + ")");
  text_.line("const int n = " + tile_.column("d", tile_.width) + ";");
  text_.line("if (n >= " + text_.number(p.n, false) + ") continue;");
  if (lanes > 1) text_.line("const int run = n / " + s(lanes) + ";");
  body.decompose(lanes > 1 ? "run" : "n", p.b.own, lanes);
  for (int lane = 0; lane < lanes; ++lane) {
    text_.line("const float sum" + (lanes > 1 ? "_" + s(lane) : "") + " = " +
               tile_.value("sums", "d", lane) + " * share;");
  }
  body.give(p.dot, "sum", lanes > 1);
  for (int line : result_.stores) body.store(line);
  body.leave();
  body.leave();
}

Text& Printer::print() {
  const int64_t block = tile_.block_rows(), tiles = (a_.scores.m + block - 1) / block;
  text_.line("const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;");
  text_.line("const int tile = blockIdx.x;");
  text_.line("const int batch = " + text_.quotient("tile", tiles, false) + ";");
  text_.line("const int first_row = (tile - batch * " + text_.number(tiles, false) + ") * " +
             s(block) + ";");
  const std::string type = tile_.element(), rows = s(tile_.each);
  const int64_t depth = tile_.depth, columns = tile_.columns;
  text_.line(type + "* const tile_q = (" + type + "*)shared_bytes();");
  text_.line(type + "* const tile_k = tile_q + " + s(tile_.elements(block, depth, false)) + ";");
  text_.line(type + "* const tile_v = tile_k + " + s(tile_.keys()) + ";");
  text_.line(tile_.declare("sums", tile_.width));
  text_.line("float top[" + rows + "], total[" + rows + "] = {};");
  text_.line("#pragma unroll");
  text_.line("for (int i = 0; i < " + rows + "; ++i) top[i] = __uint_as_float(0xff800000u);");
  const Product &p = a_.scores, &q = a_.result;
  fill(scores_, p, p.a, {"tile_q", "first_row", "0", block, depth, p.m, p.k, false});
  text_.open("for (int first_column = 0; first_column < " + text_.number(p.n, false) +
             "; first_column += " + s(columns) + ")");
  fill(scores_, p, p.b, {"tile_k", "first_column", "0", columns, depth, p.n, p.k, false});
  fill(result_, q, q.b, {"tile_v", "0", "first_column", tile_.width, columns, q.n, q.k, true});
  text_.line("__syncthreads();");
  multiply_scores(tile_, text_);
  change_scores();
  sum_rows();
  multiply_result(tile_, text_);
  text_.line("__syncthreads();");
  text_.close();
  finish();
  return text_;
}

}  // namespace

Status plan_attention(Work& work, size_t stage, const Nest& scores, const Nest& softmax,
                      const Nest& result, const Attention& attention) {
  Printer printer(work, scores, softmax, result, attention);
  const AttentionTile& tile = printer.tile();
  const Text& text = printer.print();
  Shape shape;
  const int64_t rows = tile.block_rows();
  shape.grid[0] = attention.scores.batches * ((attention.scores.m + rows - 1) / rows);
  shape.block[0] = 32 * kWarps;
  shape.shared_bytes = tile.shared_bytes();
  return work.add(stage, std::string("attention_") + tile.name(), text, shape, kBlocks);
}

}  // namespace onnx_fusion::cuda
