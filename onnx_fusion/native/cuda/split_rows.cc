// Reductions of few long rows: parts of each row in several blocks. Each level of reductions is a
// launch that leaves its parts in the workspace, whose blocks first combine the parts of the levels
// before; a last launch combines all and does what follows. The order is the same in every run.
#include <algorithm>

#include "cuda/rows.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int kSplitThreads = 512;
constexpr int64_t kTurns = 8;  // of a thread over its part: less is not worth a block
constexpr int64_t kLeast = 4;  // parts that are worth the launches
constexpr int64_t kBlocks = 4;  // of a processor
constexpr int kWarps = 8;  // of a block of the last launch

struct Split {
  Work& work;
  size_t stage;
  const Nest& nest;
  const Row& row;
  bool columns;
  std::vector<int> kept;
  int lanes = 1, lane_letter = -1;
  int64_t runs = 1, chunk = 1, parts = 1;  // chunk: runs of a part
  std::vector<int> buffers{};  // per line: of a reduction's parts

  bool divide();
  Status plan();
  std::vector<int> at_level(int level) const;
  std::vector<int> read_by(std::vector<int> lines) const;
  void open(Text& text, Body& body, Team* team) const;
  void combine(Body& body, const Team& team, const std::vector<int>& lines) const;
  Status add(const Text& text) const;
  Status add_level(int level);
  Status add_shared_stores() const;
  Status add_stores() const;
};

// Finds out how many parts there are; false if one is as good, or the reductions differ.
bool Split::divide() {
  for (size_t i = 0; i < nest.lines(); ++i) {
    const int line = static_cast<int>(i);
    if (!nest.reduces(line) || nest.nothing(line)) continue;
    if (nest.over[i] != row.reduced || (nest.letters[i] & row.reduced)) return false;
  }
  const int64_t blocks = columns ? (row.rows + kWidth - 1) / kWidth : row.rows;
  const int64_t team = columns ? kSplitThreads / kWidth : kSplitThreads;
  runs = row.length / lanes;
  if (2 * blocks > work.device.processors) return false;
  parts = std::min(kBlocks * work.device.processors / blocks, runs / (kTurns * team));
  if (parts < kLeast) return false;
  const int64_t whole = columns ? 1 : 32;  // so that parts begin where lines of memory do
  chunk = ((runs + parts - 1) / parts + whole - 1) / whole * whole;
  parts = (runs + chunk - 1) / chunk;
  return true;
}

std::vector<int> Split::at_level(int level) const {
  std::vector<int> found;
  for (size_t i = 0; i < nest.lines(); ++i) {
    const int line = static_cast<int>(i);
    if (nest.reduces(line) && !nest.nothing(line) && nest.level[i] == level) found.push_back(line);
  }
  return found;
}

// The reductions whose results these lines need.
std::vector<int> Split::read_by(std::vector<int> lines) const {
  std::vector<int> found;
  std::vector<uint8_t> seen(nest.lines());
  std::vector<int> open;
  for (int line : lines) {
    for (int from : nest.needs(line)) open.push_back(from);
  }
  while (!open.empty()) {
    const int line = open.back();
    open.pop_back();
    if (seen[static_cast<size_t>(line)]++) continue;
    if (nest.reduces(line) && !nest.nothing(line)) {
      found.push_back(line);
      continue;
    }
    for (int from : nest.needs(line)) open.push_back(from);
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Prints which part of which row a block of the shared launches has.
void Split::open(Text& text, Body& body, Team* team) const {
  const std::string type = text.index(), rows = text.number(row.rows, false);
  body.memory_aligned = work.device.aligned;
  body.lanes = lanes;
  body.lane_letter = lane_letter;
  if (columns) {
    text.line("const " + type + " place = blockIdx.x * (" + type + ")blockDim.x + threadIdx.x;");
    // Threads beside the last row compute it too, so that all meet at the barriers.
    text.line("const " + type + " i = place < " + rows + " ? place : " + rows + " - 1;");
    *team = column_team(kSplitThreads / kWidth);
  } else {
    text.line("const " + type + " i = blockIdx.x;");
    *team = block_team(kSplitThreads);
  }
  body.decompose("i", kept);
  const std::string size = text.number(chunk, false);
  text.line("const " + type + " part_from = blockIdx.y * (" + type + ")" + size + ";");
  text.line("const " + type + " part_end = min(part_from + " + size + ", (" + type + ")" +
            text.number(runs, false) + ");");
}

void Split::combine(Body& body, const Team& team, const std::vector<int>& lines) const {
  Text& text = body.text;
  for (int line : lines) {
    const Instruction& reduction = nest.at(line);
    const std::string sum = text.fresh("s"), part = text.fresh("p");
    const std::string count = text.number(parts, false);
    const std::string from =
        text.scratch(buffers[static_cast<size_t>(line)], reduction.dtype, false);
    text.line(std::string(type_name(reduction.dtype)) + " " + sum + " = " +
              nothing_value(reduction) + ";");
    text.line("#pragma unroll 4");
    text.open("for (int " + part + " = " + team.rank + "; " + part + " < " + count + "; " + part +
              " += " + std::to_string(team.threads) + ")");
    text.line(sum + " = " + fold_functor(reduction.op) + "(" + sum + ", " + from + "[i * " + count +
              " + " + part + "]);");
    text.close();
    text.line(sum + " = " + team.fold(reduction, sum) + ";");
    body.give(line, sum);
  }
}

Status Split::add(const Text& text) const {
  Shape shape;
  shape.grid[0] = columns ? (row.rows + kWidth - 1) / kWidth : row.rows;
  shape.grid[1] = parts;
  shape.block[0] = columns ? kWidth : kSplitThreads;
  shape.block[1] = columns ? kSplitThreads / kWidth : 1;
  shape.shared_bytes = columns ? kSplitThreads * 8 : kFolded;
  return work.add(stage, columns ? "columns_split" : "block_rows_split", text, shape,
                  blocks_of(work, kSplitThreads));
}

Status Split::add_level(int level) {
  Text text(work.bound, nest.wide() || work.device.wide);
  Body body(nest, text);
  Team team;
  open(text, body, &team);
  const std::vector<int> lines = at_level(level);
  combine(body, team, read_by(lines));
  Team some = team;
  some.rank = "part_from + " + team.rank;
  some.end = "part_end";
  body.reduce(lines, some);
  text.open(std::string("if (") + (columns ? "place == i && " : "") + team.rank + " == 0)");
  for (int line : lines) {
    const DType dtype = nest.dtype(line);
    int& buffer = buffers[static_cast<size_t>(line)];
    buffer = work.buffer(static_cast<int64_t>(dtype_size(dtype)) * row.rows * parts);
    text.line(text.scratch(buffer, dtype, true) + "[i * " + text.number(parts, false) +
              " + blockIdx.y] = " + body.name(line) + ";");
  }
  text.close();
  return add(text);
}

// The stores, where some are of a row's elements: by blocks as before.
Status Split::add_shared_stores() const {
  Text text(work.bound, nest.wide() || work.device.wide);
  Body body(nest, text);
  Team team;
  open(text, body, &team);
  combine(body, team, read_by(nest.stores));
  const std::string leader = team.rank + " == 0 && blockIdx.y == 0";
  team.rank = "part_from + " + team.rank;
  team.end = "part_end";
  print_stores(body, row, team, columns ? "place == i" : "", leader);
  return add(text);
}

// The stores of rows' results: a warp for each.
Status Split::add_stores() const {
  Text text(work.bound, nest.wide() || work.device.wide);
  Body body(nest, text);
  const std::string type = text.index();
  text.line("const " + type + " i = blockIdx.x * (" + type + ")blockDim.y + threadIdx.y;");
  text.line("if (i >= " + text.number(row.rows, false) + ") return;");
  body.decompose("i", kept);
  combine(body, warp_team(), read_by(nest.stores));
  print_stores(body, row, warp_team(), "", "threadIdx.x == 0");
  Shape shape;
  shape.block[0] = 32;
  shape.block[1] = kWarps;
  shape.grid[0] = (row.rows + kWarps - 1) / kWarps;
  return work.add(stage, "split_rows", text, shape);
}

Status Split::plan() {
  buffers.assign(nest.lines(), -1);
  for (int level = 1; level <= row.levels; ++level) {
    if (Status status = add_level(level); !status.ok()) return status;
  }
  const bool each = std::any_of(nest.stores.begin(), nest.stores.end(), [&](int line) {
    return (nest.letters[static_cast<size_t>(line)] & row.reduced) != 0;
  });
  return each ? add_shared_stores() : add_stores();
}

}  // namespace

Status split_rows(Work& work, size_t stage, const Nest& nest, const Row& row, Way way,
                  bool* split) {
  const std::vector<int> kept =
      nest.order(row.kept, nest.access[static_cast<size_t>(nest.stores[0])]);
  Split made{work, stage, nest, row, way == Way::column, kept};
  if (way == Way::block) {
    Text unused(work.bound, false);
    Body body(nest, unused);
    body.memory_aligned = work.device.aligned;
    if (const int letter = fastest(nest, row.reduced); letter >= 0) choose_lanes(body, letter);
    made.lanes = body.lanes;
    made.lane_letter = body.lane_letter;
  }
  *split = made.divide();
  return *split ? made.plan() : Status();
}

}  // namespace onnx_fusion::cuda
