// What the units differ by: who has which scores and sums, how operands lie, how they are
// multiplied. PTX, "Matrix Fragments for mma.m16n8k16" and ".m16n8k8": in words both are the same.
#include "cuda/attention_tile.h"

#include <algorithm>

namespace onnx_fusion::cuda {
namespace {

constexpr int kPad = 4;  // words, so that neighbouring rows of a tile lie in other banks

std::string s(int64_t value) { return std::to_string(value); }
int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Where four neighbours of an operand for fmaf start: those of `group` in row `sum`.
std::string four(const std::string& tile, const std::string& sum, int64_t stride,
                 const std::string& group) {
  return "(" + tile + " + " + sum + " * " + s(stride) + " + (" + group + " ^ turn) * 4)";
}

}  // namespace

AttentionTile::AttentionTile(const Attention& attention, const Device& device)
    : unit(attention.scores.unit),
      depth(round_up(attention.scores.k, halves()  ? 16
                                         : cores() ? 8
                                                   : 4)),
      width(round_up(attention.result.n, halves()  ? 16
                                         : cores() ? 8
                                                   : 32)) {
  // More blocks, where there are fewer than processors.
  const int64_t blocks = attention.scores.batches * ((attention.scores.m + 63) / 64);
  const bool few = attention.scores.m <= 32 || blocks < device.processors;
  if (!cores()) each = few ? 4 : 8;
  if (!halves() && shared_bytes() > device.shared_default) columns /= 2;
}

const char* AttentionTile::name() const {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "tf32"};
  return kNames[static_cast<size_t>(unit)];
}

std::string AttentionTile::declare(const char* array, int64_t extent) const {
  const std::string of = cores() ? s(extent / 8) + "][4" : s(each) + "][" + s(of_row(extent));
  return std::string("float ") + array + "[" + of + "] = {};";
}

std::string AttentionTile::value(const char* array, const char* column, int next) const {
  const std::string at = column, last = next > 0 ? " + " + s(next) : "";
  return array + (cores() ? "[" + at + " / 2][i * 2 + " + at + " % 2" : "[i][" + at) + last + "]";
}

std::string AttentionTile::row() const {
  return cores() ? "warp * 16 + i * 8 + lane / 4"
                 : "warp * " + s(warp_rows()) + " + lane / 16 * " + s(each) + " + i";
}

std::string AttentionTile::column(const char* index, int64_t extent) const {
  const std::string at = index, by = s(run(extent));
  if (cores()) return at + " / 2 * 8 + lane % 4 * 2 + " + at + " % 2";
  return at + " / " + by + " * " + s(16 * run(extent)) + " + lane % 16 * " + by + " + " + at +
         " % " + by;
}

int64_t AttentionTile::stride(int64_t own, int64_t sum, bool result) const {
  if (!cores()) return own;
  if (halves()) return sum + 2 * kPad;
  return sum + (result ? 2 * kPad : kPad);  // of the result two words are read at once
}

int64_t AttentionTile::elements(int64_t own, int64_t sum, bool result) const {
  return (cores() ? own : sum) * stride(own, sum, result);
}

int64_t AttentionTile::keys() const {
  const int64_t own = elements(columns, depth, false);
  return cores() ? own : std::max<int64_t>(own, columns * block_rows());
}

int64_t AttentionTile::shared_bytes() const {
  const int64_t own = elements(block_rows(), depth, false) + elements(width, columns, true);
  return (halves() ? 2 : 4) * (own + keys());
}

namespace {

// 16 rows of scores for each warp: a thread has those of two rows, in pairs of columns.
void score_cores(const AttentionTile& tile, Text& text) {
  const int64_t each = tile.halves() ? 2 : 1;  // elements in a word
  const std::string stride = s(tile.stride(0, tile.depth, false) / each);
  text.line("#pragma unroll");
  text.open("for (int part = 0; part < " + s(tile.depth / each) + "; part += 8)");
  text.line("const unsigned* const from = (const unsigned*)tile_q + (warp * 16 + lane / 4) * " +
            stride + " + part + lane % 4;");
  text.line("const unsigned x[4] = {from[0], from[8 * " + stride + "], from[4], from[8 * " +
            stride + " + 4]};");
  text.line("#pragma unroll");
  text.open("for (int j = 0; j < " + s(tile.columns / 8) + "; ++j)");
  text.line("const unsigned* const other = (const unsigned*)tile_k + (j * 8 + lane / 4) * " +
            stride + " + part + lane % 4;");
  text.line("const unsigned y[2] = {other[0], other[4]};");
  text.line(std::string("multiply_") + tile.name() + "(scores[j], x, y);");
  text.close();
  text.close();
}

// The sums of two products' tiles lie in registers as the operand of the next product needs them;
// those of tf32 if column 2 t of eight counts as t, and column 2 t + 1 as t + 4.
void add_cores(const AttentionTile& tile, Text& text) {
  const bool halves = tile.halves();
  const std::string stride = s(tile.stride(0, tile.columns, true) / (halves ? 2 : 1));
  text.line("#pragma unroll");
  text.open("for (int part = 0; part < " + s(tile.columns / (halves ? 16 : 8)) + "; ++part)");
  text.line("unsigned x[4];");
  text.line("#pragma unroll");
  if (halves) {
    const std::string convert = tile.unit == Unit::f16 ? "float_to_half" : "float_to_bf16";
    text.open("for (int i = 0; i < 4; ++i)");
    text.line("const float* const pair = &scores[part * 2 + i / 2][i % 2 * 2];");
    text.line("x[i] = " + convert + "(pair[0]) | (unsigned)" + convert + "(pair[1]) << 16;");
    text.close();
  } else {
    text.line("for (int i = 0; i < 4; ++i) x[i] = float_to_tf32(scores[part][i % 2 * 2 + i / 2]);");
  }
  text.line("#pragma unroll");
  text.open("for (int d = 0; d < " + s(tile.width / 8) + "; ++d)");
  const std::string from =
      "(const unsigned*)tile_v + (d * 8 + lane / 4) * " + stride + " + part * 8 + lane % 4";
  if (halves) {
    text.line("const unsigned* const from = " + from + ";");
    text.line("const unsigned y[2] = {from[0], from[4]};");
  } else {
    text.line("const Pack<unsigned, 2> pair = *(const Pack<unsigned, 2>*)(" + from + " * 2);");
    text.line("const unsigned y[2] = {pair.at[0], pair.at[1]};");
  }
  text.line(std::string("multiply_") + tile.name() + "(sums[d], x, y);");
  text.close();
  text.close();
}

// Where run h of a thread's rows starts, among the runs of 4.
std::string run_of_rows(const AttentionTile& tile) {
  return "(warp * " + s(tile.warp_rows() / 4) + " + lane / 16 * " + s(tile.each / 4) + " + h)";
}

// Rows times columns, both in shared memory.
void multiply_floats(const AttentionTile& tile, Text& text, const char* rows, const char* columns,
                     int64_t extent, int64_t sum, const char* array) {
  const int run = tile.run(extent);
  const int runs = tile.of_row(extent) / run;
  text.line("#pragma unroll 2");
  text.open("for (int part = 0; part < " + s(sum) + "; part += 4)");
  text.line("const int turn = part / 4 % 8;");
  text.line("#pragma unroll");
  text.open("for (int k = part; k < part + 4; ++k)");
  text.line("Pack<float, 4> x[" + s(tile.each / 4) + "];");
  text.line("Pack<float, " + s(run) + "> y[" + s(runs) + "];");
  text.line("#pragma unroll");
  text.line("for (int h = 0; h < " + s(tile.each / 4) + "; ++h) x[h] = *(const Pack<float, 4>*)" +
            four(rows, "k", tile.block_rows(), run_of_rows(tile)) + ";");
  text.line("#pragma unroll");
  const std::string own = "lane % 16 * " + s(run);
  text.line("for (int r = 0; r < " + s(runs) + "; ++r) y[r] = *(const Pack<float, " + s(run) +
            ">*)(" + four(columns, "k", extent, "(r * " + s(4 * run) + " + " + own + " / 4)") +
            " + " + own + " % 4);");
  text.line("#pragma unroll");
  text.open("for (int i = 0; i < " + s(tile.each) + "; ++i)");
  text.line("#pragma unroll");
  text.line("for (int j = 0; j < " + s(run * runs) + "; ++j) " + std::string(array) +
            "[i][j] = fmaf(x[i / 4].at[i % 4], y[j / " + s(run) + "].at[j % " + s(run) + "], " +
            array + "[i][j]);");
  text.close();
  text.close();
  text.close();
}

// The weights go where the keys were: [column][row], as an operand. A warp reads its own only.
void add_floats(const AttentionTile& tile, Text& text) {
  text.line("__syncthreads();");
  text.line("float* const tile_p = tile_k;");
  text.line("#pragma unroll");
  text.open("for (int j = 0; j < " + s(tile.of_row(tile.columns)) + "; ++j)");
  text.line("const int column = " + tile.column("j", tile.columns) + ", turn = column / 4 % 8;");
  text.line("#pragma unroll");
  text.open("for (int h = 0; h < " + s(tile.each / 4) + "; ++h)");
  std::string list;
  for (int i = 0; i < 4; ++i) {
    list += (i > 0 ? ", scores[h * 4 + " : "scores[h * 4 + ") + s(i) + "][j]";
  }
  text.line("*(Pack<float, 4>*)" + four("tile_p", "column", tile.block_rows(), run_of_rows(tile)) +
            " = {{" + list + "}};");
  text.close();
  text.close();
  text.line("__syncwarp();");
  multiply_floats(tile, text, "tile_p", "tile_v", tile.width, tile.columns, "sums");
}

}  // namespace

void multiply_scores(const AttentionTile& tile, Text& text) {
  text.line(tile.declare("scores", tile.columns));
  if (tile.cores()) {
    score_cores(tile, text);
  } else {
    multiply_floats(tile, text, "tile_q", "tile_k", tile.columns, tile.depth, "scores");
  }
}

void multiply_result(const AttentionTile& tile, Text& text) {
  tile.cores() ? add_cores(tile, text) : add_floats(tile, text);
}

}  // namespace onnx_fusion::cuda
