// Products of matrices by tiles: a block's tile of rows and columns, a step of the sum in shared
// memory. Every operand is computed as it enters shared memory, so whatever comes before the dot is
// free of passes of its own; what comes after it happens to the sums in registers. The next step's
// operands are on their way while a step is multiplied.
#include <algorithm>

#include "cuda/contract.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int kPad = 4;  // words, so that neighbouring rows of a tile lie in other banks
constexpr int kWords = 16;  // 32-bit words of a step, for tensor cores
constexpr int64_t kMostSplits = 16,
                  kLongest = 256;  // a sum is split where each part has so many terms

std::string s(int64_t value) { return std::to_string(value); }

class Printer {
 public:
  Printer(Work& work, const Nest& nest, const Product& product, Tile tile)
      : work_(work), nest_(nest), p_(product), tile_(tile), text_(work.bound, false) {}

  Text& print();
  int64_t shared_bytes() const;
  int staged() const { return staged_; }  // elements on their way, for each thread

 private:
  // How the threads share a step's part of an operand: `count` runs of `lanes` elements; `pair`
  // rows of the sum at once, for halves that lie across it.
  struct Share {
    int lanes, pair, fast, count, turns;
  };
  bool cores() const { return p_.unit != Unit::fmaf; }
  bool halves() const { return p_.unit == Unit::f16 || p_.unit == Unit::bf16; }
  const char* element() const {
    return cores() ? halves() ? "unsigned short" : "unsigned" : "float";
  }
  void place();
  Share share(const Operand& operand, bool rows, Body* body) const;
  void load(const Operand& operand, bool rows);
  void keep(const Operand& operand, bool rows);
  void open_turns(const Share& share, const Operand& operand);
  void multiply();
  void multiply_cores();

  Work& work_;
  const Nest& nest_;
  const Product& p_;
  const Tile tile_;
  Text text_;
  int staged_ = 0;
};

// Where the tiles of the operands lie, and which part of the block's tile a thread has.
void Printer::place() {
  place_tile(text_, p_, tile_);
  const std::string type = element();
  const int words = cores() ? tile_.rows * (kWords + kPad) : tile_.step * (tile_.rows + kPad);
  text_.line(type + "* const tile_a = (" + type + "*)shared_bytes();");
  text_.line(type + "* const tile_b = tile_a + " + s(words * (halves() ? 2 : 1)) + ";");
  if (cores()) {
    place_warp(text_, tile_);
  } else {
    const int across = tile_.columns / tile_.each;
    text_.line("const int thread_row = thread / " + s(across) + " * 4;");
    text_.line("const int thread_column = thread % " + s(across) + " * 4;");
    text_.line("float sums[" + s(tile_.each) + "][" + s(tile_.each) + "] = {};");
  }
}

int64_t Printer::shared_bytes() const {
  const int64_t words = cores() ? (tile_.rows + tile_.columns) * (kWords + kPad)
                                : tile_.step * (tile_.rows + tile_.columns + 2 * kPad);
  return 4 * words;
}

Printer::Share Printer::share(const Operand& operand, bool rows, Body* body) const {
  const int extent = rows ? tile_.rows : tile_.columns;
  const std::vector<int>& along = operand.sum_fastest ? operand.sum : operand.own;
  body->memory_aligned = work_.device.aligned;
  if (!along.empty()) choose_lanes(*body, along.back());
  body->lanes = std::min(body->lanes, halves() ? 8 : 4);
  Share out;
  out.lanes = body->lanes;
  out.pair = halves() && !operand.sum_fastest ? 2 : 1;
  const int in_step = tile_.step / (operand.sum_fastest ? out.lanes : out.pair);
  const int in_extent = operand.sum_fastest ? extent : extent / out.lanes;
  out.fast = operand.sum_fastest ? in_step : in_extent;
  out.count = in_step * in_extent;
  out.turns = (out.count + kThreads - 1) / kThreads;
  return out;
}

// Opens a loop over a thread's runs: `in_sum` and `in_tile` say where one starts.
void Printer::open_turns(const Share& share, const Operand& operand) {
  text_.line("#pragma unroll");
  text_.open("for (int turn = 0; turn < " + s(share.turns) + "; ++turn)");
  text_.line("const int f = thread + turn * " + s(kThreads) + ";");
  if (share.count % kThreads != 0) text_.line("if (f >= " + s(share.count) + ") break;");
  const std::string fast = "f % " + s(share.fast) + " * " + s(share.lanes);
  const std::string slow = "f / " + s(share.fast);
  text_.line("const int in_sum = " + (operand.sum_fastest ? fast : slow + " * " + s(share.pair)) +
             ";");
  text_.line("const int in_tile = " + (operand.sum_fastest ? slow : fast) + ";");
}

// Computes a thread's part of an operand's next step.
void Printer::load(const Operand& operand, bool rows) {
  Body body(nest_, text_);
  const Share how = share(operand, rows, &body);
  const int64_t whole = rows ? p_.m : p_.n;
  open_turns(how, operand);
  if (how.pair > 1) {
    text_.line("#pragma unroll");
    text_.open("for (int half = 0; half < 2; ++half)");
  }
  // What lies beside the matrix is read at its border, and counts as 0 beyond the sum's end.
  const int along_sum = operand.sum_fastest ? how.lanes : 1,
            along_own = operand.sum_fastest ? 1 : how.lanes;
  const std::string length = text_.number(p_.k, false);
  text_.line("const int sum_at = next_sum + in_sum" + std::string(how.pair > 1 ? " + half" : "") +
             ";");
  text_.line("const int k = min(sum_at, " + length + " - " + s(along_sum) + ")" +
             (along_sum > 1 ? " / " + s(along_sum) : "") + ";");
  text_.line("const int m = min(" + std::string(rows ? "first_row" : "first_column") +
             " + in_tile, " + text_.number(whole, false) + " - " + s(along_own) + ")" +
             (along_own > 1 ? " / " + s(along_own) : "") + ";");
  body.decompose("batch", p_.batch_order);
  body.decompose("k", operand.sum, along_sum);
  body.decompose("m", operand.own, along_own);
  body.need(operand.line);
  const std::string next =
      std::string(rows ? "next_a" : "next_b") + "[turn]" + (how.pair > 1 ? "[half]" : "");
  for (int lane = 0; lane < how.lanes; ++lane) {
    const std::string value =
        as_element(p_.unit, nest_.dtype(operand.line), body.name(operand.line, lane));
    text_.line(next + "[" + s(lane) + "] = sum_at < " + length + " ? " + value + " : " +
               (cores() ? "0" : "0.0f") + ";");
  }
  if (how.pair > 1) text_.close();
  text_.close();
}

// Puts it into shared memory: [sum][own] for fmaf, [own][sum] for tensor cores.
void Printer::keep(const Operand& operand, bool rows) {
  Body body(nest_, text_);
  const Share how = share(operand, rows, &body);
  const std::string tile = rows ? "tile_a" : "tile_b",
                    next = std::string(rows ? "next_a" : "next_b") + "[turn]";
  open_turns(how, operand);
  if (!cores()) {
    const std::string stride = s((rows ? tile_.rows : tile_.columns) + kPad);
    for (int lane = 0; lane < how.lanes; ++lane) {
      const std::string at = operand.sum_fastest
                                 ? "(in_sum + " + s(lane) + ") * " + stride + " + in_tile"
                                 : "in_sum * " + stride + " + in_tile + " + s(lane);
      text_.line(tile + "[" + at + "] = " + next + "[" + s(lane) + "];");
    }
  } else {
    const std::string stride = s((kWords + kPad) * (halves() ? 2 : 1));
    const std::string pack = std::string("Pack<") + element() + ", ";
    if (operand.sum_fastest) {
      std::string list;
      for (int lane = 0; lane < how.lanes; ++lane) {
        list += (lane > 0 ? ", " : "") + next + "[" + s(lane) + "]";
      }
      text_.line("*(" + pack + s(how.lanes) + ">*)(tile_" + (rows ? "a" : "b") + " + in_tile * " +
                 stride + " + in_sum) = {{" + list + "}};");
    } else {
      for (int lane = 0; lane < how.lanes; ++lane) {
        const std::string at = "(in_tile + " + s(lane) + ") * " + stride + " + in_sum";
        if (how.pair > 1) {
          text_.line("*(" + pack + "2>*)(" + tile + " + " + at + ") = {{" + next + "[0][" +
                     s(lane) + "], " + next + "[1][" + s(lane) + "]}};");
        } else {
          text_.line(tile + "[" + at + "] = " + next + "[" + s(lane) + "];");
        }
      }
    }
  }
  text_.close();
}

void Printer::multiply() {
  const int each = tile_.each;
  const std::string apart_a = s(tile_.rows / (each / 4)), apart_b = s(tile_.columns / (each / 4));
  text_.line("#pragma unroll");
  text_.open("for (int k = 0; k < " + s(tile_.step) + "; ++k)");
  text_.line("Pack<float, 4> x[" + s(each / 4) + "], y[" + s(each / 4) + "];");
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(each / 4) + "; ++i)");
  text_.line("x[i] = *(const Pack<float, 4>*)(tile_a + k * " + s(tile_.rows + kPad) + " + i * " +
             apart_a + " + thread_row);");
  text_.line("y[i] = *(const Pack<float, 4>*)(tile_b + k * " + s(tile_.columns + kPad) + " + i * " +
             apart_b + " + thread_column);");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(each) + "; ++i)");
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(each) + "; ++j)");
  text_.line("sums[i][j] = fmaf(x[i / 4].at[i % 4], y[j / 4].at[j % 4], sums[i][j]);");
  text_.close();
  text_.close();
  text_.close();
}

// PTX, "Matrix Fragments for mma.m16n8k16" and ".m16n8k8": in words both are the same.
void Printer::multiply_cores() {
  const int high = tile_.rows / 32, wide = tile_.columns / 32;
  const char* const name = p_.unit == Unit::f16 ? "f16" : p_.unit == Unit::bf16 ? "bf16" : "tf32";
  text_.line("#pragma unroll");
  text_.open("for (int part = 0; part < " + s(kWords) + "; part += 8)");
  text_.line("const int w = part + lane % 4;");
  text_.line("unsigned x[" + s(high) + "][4], y[" + s(wide) + "][2];");
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(high) + "; ++i)");
  text_.line(
      "const unsigned* const from = (const unsigned*)tile_a + (warp_row + i * 16 + lane / 4) * " +
      s(kWords + kPad) + " + w;");
  const std::string below = s(8 * (kWords + kPad));
  text_.line("x[i][0] = from[0];");
  text_.line("x[i][1] = from[" + below + "];");
  text_.line("x[i][2] = from[4];");
  text_.line("x[i][3] = from[" + below + " + 4];");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(wide) + "; ++j)");
  text_.line(
      "const unsigned* const from = (const unsigned*)tile_b + (warp_column + j * 8 + lane / 4) * " +
      s(kWords + kPad) + " + w;");
  text_.line("y[j][0] = from[0];");
  text_.line("y[j][1] = from[4];");
  text_.close();
  text_.line("#pragma unroll");
  text_.open("for (int i = 0; i < " + s(high) + "; ++i)");
  text_.line("#pragma unroll");
  text_.open("for (int j = 0; j < " + s(wide) + "; ++j)");
  text_.line(std::string("multiply_") + name + "(sums[i][j], x[i], y[j]);");
  text_.close();
  text_.close();
  text_.close();
}

Text& Printer::print() {
  place();
  for (bool rows : {true, false}) {
    Body body(nest_, text_);
    const Share how = share(rows ? p_.a : p_.b, rows, &body);
    staged_ += how.turns * how.pair * how.lanes;
    text_.line(std::string(element()) + (rows ? " next_a[" : " next_b[") + s(how.turns) + "]" +
               (how.pair > 1 ? "[2]" : "") + "[" + s(how.lanes) + "];");
  }
  const auto [from, end] = sum_range(text_, p_, tile_);
  text_.open("for (int next_sum = " + from + "; next_sum < " + end + " + " + s(tile_.step) +
             "; next_sum += " + s(tile_.step) + ")");
  text_.open("if (next_sum < " + end + ")");
  load(p_.a, true);
  load(p_.b, false);
  text_.close();
  text_.open("if (next_sum > " + from + ")");
  cores() ? multiply_cores() : multiply();
  text_.line("__syncthreads();");
  text_.close();
  text_.open("if (next_sum < " + end + ")");
  keep(p_.a, true);
  keep(p_.b, false);
  text_.close();
  text_.line("__syncthreads();");
  text_.close();
  finish_product(work_, nest_, p_, tile_, text_);
  return text_;
}

}  // namespace

Status plan_product(Work& work, size_t stage, const Nest& nest, const Product& product) {
  const auto tiles = [&](int size) {
    return product.batches * ((product.m + size - 1) / size) * ((product.n + size - 1) / size);
  };
  const bool large = product.m >= 128 && product.n >= 128 && tiles(128) >= work.device.processors;
  const bool copied = copies(work, nest, product);
  Tile tile = large ? Tile{128, 128, 8, 8} : Tile{64, 64, 16, 4};
  std::string schedule = "product";
  if (product.unit != Unit::fmaf) {
    tile.step = product.unit == Unit::tf32 ? kWords : 2 * kWords;
    schedule += product.unit == Unit::f16 ? "_f16" : product.unit == Unit::bf16 ? "_bf16" : "_tf32";
  }
  if (copied) schedule += "_copied";
  // Fewer tiles than processors: several blocks share each tile's sum.
  const int64_t all = product.batches * product.m * product.n;
  const int64_t splits =
      std::min({work.device.processors / tiles(tile.rows), product.k / kLongest, kMostSplits});
  if (splits > 1 && all < (int64_t{1} << 30) / kMostSplits) {
    tile.chunk = ((product.k + splits - 1) / splits + tile.step - 1) / tile.step * tile.step;
    tile.splits = (product.k + tile.chunk - 1) / tile.chunk;
    tile.partial = work.buffer(4 * all * tile.splits);
    schedule += "_split";
  }
  if (copied) return plan_copied(work, stage, nest, product, tile, schedule);
  Printer printer(work, nest, product, tile);
  const Text& text = printer.print();
  Shape shape;
  shape.grid[0] = tiles(tile.rows);
  shape.grid[1] = tile.splits;
  shape.block[0] = kThreads;
  shape.shared_bytes = printer.shared_bytes();
  // Two blocks of a processor hide each other's waits, where the registers suffice.
  constexpr int kStaged = 12;
  const bool two = tile.rows <= 64 || (printer.staged() <= kStaged && work.device.arch < 90);
  const Status status = work.add(stage, schedule, text, shape, two ? 2 : 1);
  return status.ok() && tile.splits > 1
             ? add_parts(work, stage, nest, product, {tile.partial, tile.splits})
             : status;
}

}  // namespace onnx_fusion::cuda
