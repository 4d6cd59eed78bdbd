// Products of half types whose operands lie in memory as the tensor cores take them: cp.async
// copies the next steps into shared memory while one is multiplied, and ldmatrix reads it,
// transposed where the sum runs across memory. No operand passes through registers on its way.
#include <algorithm>

#include "cuda/contract.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int kRun = 8;                       // halves of one copy: 16 bytes
constexpr int kPad = 8;                       // halves, so that eight rows lie in all banks
constexpr int64_t kRoomy = int64_t{128} << 10;  // shared memory that has room for another step

std::string s(int64_t value) { return std::to_string(value); }

bool is_run(const Work& work, const Nest& nest, const Operand& operand, DType half) {
  if (nest.at(operand.line).op != Op::op_load || nest.dtype(operand.line) != half) return false;
  const Access& access = nest.access[static_cast<size_t>(operand.line)];
  const std::vector<int>& along = operand.sum_fastest ? operand.sum : operand.own;
  if (!access.plain() || along.empty() || nest.extents[along.back()] % kRun != 0) return false;
  Text text(work.bound, false);
  Body body(nest, text);
  body.memory_aligned = work.device.aligned;
  body.lane_letter = along.back();
  body.lanes = kRun;
  return body.aligned(access);
}

class Printer {
 public:
  Printer(Work& work, const Nest& nest, const Product& product, const Tile& tile)
      : work_(work),
        nest_(nest),
        p_(product),
        tile_(tile),
        text_(work.bound, false),
        stages_(work.device.shared_bytes >= kRoomy ? 3 : 2) {}

  Text& print();
  int64_t shared_bytes() const { return 2 * stages_ * (halves(p_.a, true) + halves(p_.b, false)); }

 private:
  int extent(bool rows) const { return rows ? tile_.rows : tile_.columns; }
  // A step of an operand in shared memory: [own][sum] or [sum][own].
  int stride(const Operand& operand, bool rows) const {
    return (operand.sum_fastest ? tile_.step : extent(rows)) + kPad;
  }
  int64_t halves(const Operand& operand, bool rows) const {
    return int64_t{stride(operand, rows)} * (operand.sum_fastest ? extent(rows) : tile_.step);
  }
  void copy(const Operand& operand, bool rows);
  void multiply();

  Work& work_;
  const Nest& nest_;
  const Product& p_;
  const Tile& tile_;
  Text text_;
  const int stages_;
};

// Starts to copy a thread's part of an operand's step from `next_sum` on.
void Printer::copy(const Operand& operand, bool rows) {
  Body body(nest_, text_);
  body.memory_aligned = work_.device.aligned;
  body.lane_letter = (operand.sum_fastest ? operand.sum : operand.own).back();
  body.lanes = kRun;
  const int along = operand.sum_fastest ? tile_.step : extent(rows);
  const int across = operand.sum_fastest ? extent(rows) : tile_.step;
  const int turns = along / kRun * across / kThreads;
  const std::string fast = "f % " + s(along / kRun) + " * " + s(kRun),
                    slow = "f / " + s(along / kRun);
  text_.line("#pragma unroll");
  text_.open("for (int turn = 0; turn < " + s(turns) + "; ++turn)");
  text_.line("const int f = thread + turn * " + s(kThreads) + ";");
  text_.line("const int in_sum = " + (operand.sum_fastest ? fast : slow) + ";");
  text_.line("const int in_tile = " + (operand.sum_fastest ? slow : fast) + ";");
  // What lies beside the matrix is read at its border, and is 0 beyond the sum's end.
  const int by_sum = operand.sum_fastest ? kRun : 1, by_own = operand.sum_fastest ? 1 : kRun;
  const std::string length = text_.number(p_.k, false);
  const auto border = [&](const std::string& at, const std::string& end, int by) {
    return "min(" + at + ", " + end + " - " + s(by) + ")" + (by > 1 ? " / " + s(by) : "") + ";";
  };
  text_.line("const int sum_at = next_sum + in_sum;");
  text_.line("const int k = " + border("sum_at", length, by_sum));
  text_.line("const int m = " +
             border(std::string(rows ? "first_row" : "first_column") + " + in_tile",
                    text_.number(rows ? p_.m : p_.n, false), by_own));
  body.decompose("batch", p_.batch_order);
  body.decompose("k", operand.sum, by_sum);
  body.decompose("m", operand.own, by_own);
  const Access& access = nest_.access[static_cast<size_t>(operand.line)];
  const std::string from = text_.pointer(access.tensor, false) + " + " + body.offset(access, 0);
  const std::string place = operand.sum_fastest
                                ? "in_tile * " + s(stride(operand, rows)) + " + in_sum"
                                : "in_sum * " + s(stride(operand, rows)) + " + in_tile";
  text_.line("copy_async(" + std::string(rows ? "tile_a" : "tile_b") + " + into * " +
             s(halves(operand, rows)) + " + " + place + ", " + from + ", sum_at < " + length +
             " ? 16 : 0);");
  text_.close();
}

// PTX, "ldmatrix" and "Matrix Fragments for mma.m16n8k16": four 8 x 8 matrices at once, whose rows
// the lanes point to, eight lanes for each matrix.
void Printer::multiply() {
  const int high = tile_.rows / 32, wide = tile_.columns / 32;
  const auto point = [&](const Operand& operand, bool rows, const std::string& own,
                         const std::string& sum) {
    const std::string tile = rows ? "tile_a" : "tile_b", by = s(stride(operand, rows));
    return tile + " + from * " + s(halves(operand, rows)) + " + " +
           (operand.sum_fastest ? "(" + own + ") * " + by + " + " + sum
                                : "(" + sum + ") * " + by + " + " + own);
  };
  const std::string matrix = "lane / 8 % 2 * 8", pair = "lane / 16 * 8", row = "lane % 8";
  const auto call = [&](const Operand& operand) {
    return operand.sum_fastest ? "load_matrices(" : "load_transposed(";
  };
  text_.line("#pragma unroll");
  text_.open("for (int part = 0; part < " + s(tile_.step) + "; part += 16)");
  text_.line("unsigned x[" + s(high) + "][4], y[" + s(wide) + "][2];");
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(high) + "; ++i)");
  const std::string own_a = "warp_row + i * 16 + " + matrix + (p_.a.sum_fastest ? " + " + row : "");
  const std::string sum_a = "part + " + pair + (p_.a.sum_fastest ? "" : " + " + row);
  text_.line(call(p_.a) +
             ("x[i][0], x[i][1], x[i][2], x[i][3], " + point(p_.a, true, own_a, sum_a)) + ");");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(wide) + "; j += 2)");
  const std::string own_b = "warp_column + j * 8 + " + pair + (p_.b.sum_fastest ? " + " + row : "");
  const std::string sum_b = "part + " + matrix + (p_.b.sum_fastest ? "" : " + " + row);
  text_.line(call(p_.b) +
             ("y[j][0], y[j][1], y[j + 1][0], y[j + 1][1], " + point(p_.b, false, own_b, sum_b)) +
             ");");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(high) + "; ++i)");
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(wide) + "; ++j)");
  text_.line(std::string("multiply_") + (p_.unit == Unit::f16 ? "f16" : "bf16") +
             "(sums[i][j], x[i], y[j]);");
  text_.close();
  text_.close();
  text_.close();
}

Text& Printer::print() {
  place_tile(text_, p_, tile_);
  text_.line("unsigned short* const tile_a = (unsigned short*)shared_bytes();");
  text_.line("unsigned short* const tile_b = tile_a + " + s(stages_ * halves(p_.a, true)) + ";");
  place_warp(text_, tile_);
  const auto [from, end] = sum_range(text_, p_, tile_);
  const std::string ahead = s(stages_ - 1);
  text_.line("const int steps = (" + end + " - " + from + " + " + s(tile_.step - 1) + ") / " +
             s(tile_.step) + ";");
  text_.line("int into = 0, from = 0;");
  text_.line("#pragma unroll 1");
  text_.open("for (int step = -" + ahead + "; step < steps; ++step)");
  // One barrier: this step is there for all, and all are done with the one that is written over.
  text_.open("if (step >= 0)");
  text_.line("wait_copies<" + s(stages_ - 2) + ">();");
  text_.line("__syncthreads();");
  text_.close();
  text_.open("if (step + " + ahead + " < steps)");
  text_.line("const int next_sum = " + from + " + (step + " + ahead + ") * " + s(tile_.step) + ";");
  copy(p_.a, true);
  copy(p_.b, false);
  text_.close();
  text_.line("commit_copies();");
  text_.line("into = into == " + ahead + " ? 0 : into + 1;");
  text_.line("if (step < 0) continue;");
  multiply();
  text_.line("from = from == " + ahead + " ? 0 : from + 1;");
  text_.close();
  finish_product(work_, nest_, p_, tile_, text_);
  return text_;
}

}  // namespace

bool copies(const Work& work, const Nest& nest, const Product& product) {
  if (work.device.arch < 80 || (product.unit != Unit::f16 && product.unit != Unit::bf16)) {
    return false;
  }
  const DType half = product.unit == Unit::f16 ? DType::f16 : DType::bf16;
  return is_run(work, nest, product.a, half) && is_run(work, nest, product.b, half);
}

Status plan_copied(Work& work, size_t stage, const Nest& nest, const Product& product,
                   const Tile& tile, const std::string& schedule) {
  Printer printer(work, nest, product, tile);
  const Text& text = printer.print();
  Shape shape;
  shape.grid[0] = product.batches * ((product.m + tile.rows - 1) / tile.rows) *
                  ((product.n + tile.columns - 1) / tile.columns);
  shape.grid[1] = tile.splits;
  shape.block[0] = kThreads;
  shape.shared_bytes = printer.shared_bytes();
  const Status status = work.add(stage, schedule, text, shape, 2);
  return status.ok() && tile.splits > 1
             ? add_parts(work, stage, nest, product, {tile.partial, tile.splits})
             : status;
}

}  // namespace onnx_fusion::cuda
