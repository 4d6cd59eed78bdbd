// Reductions: the positions of one row are shared by one thread, a warp, a block, or a block's
// column; by several blocks in split_rows.cc.
#include <algorithm>
#include <cstdlib>

#include "cuda/rows.h"

namespace onnx_fusion::cuda {
namespace {

Row row_of(const Nest& nest) {
  Row row;
  for (size_t i = 0; i < nest.lines(); ++i) {
    if (!nest.is_live(static_cast<int>(i))) continue;
    row.reduced |= nest.over[i];
    row.levels = std::max(row.levels, nest.level[i]);
  }
  for (int line : nest.stores) row.kept |= nest.letters[static_cast<size_t>(line)];
  row.kept &= static_cast<LetterSet>(~row.reduced);
  row.length = nest.points(row.reduced);
  row.rows = nest.points(row.kept);
  return row;
}

// Prints all levels of reductions, then the stores.
void print_levels(Body& body, const Row& row, const Team& team, const std::string& guard,
                  const std::string& leader) {
  const Nest& nest = body.nest;
  if (team.threads > 1) {
    // What several loops over a row read.
    std::vector<int> loads;
    bool each = false;
    for (int line : nest.stores) {
      each = each || (nest.letters[static_cast<size_t>(line)] & row.reduced);
    }
    for (size_t i = 0; i < nest.lines(); ++i) {
      const int line = static_cast<int>(i);
      const bool load = nest.is_live(line) && nest.at(line).op == Op::op_load;
      if (load && (nest.letters[i] & row.kept) && (nest.letters[i] & row.reduced)) {
        loads.push_back(line);
      }
    }
    if (row.levels + each > 1 && team.after.find("threadIdx.y") == std::string::npos) {
      body.keep_rows(loads, row.reduced, team);
    }
    for (int level = 1; level <= row.levels; ++level) {
      std::vector<int> together;
      for (size_t i = 0; i < nest.lines(); ++i) {
        const int line = static_cast<int>(i);
        if (nest.reduces(line) && !nest.nothing(line) && nest.level[i] == level) {
          together.push_back(line);
        }
      }
      if (!together.empty()) body.reduce(together, team);
    }
  }
  print_stores(body, row, team, guard, leader);
}

// Where neighbouring threads read neighbouring elements: along the row, or across rows?
bool runs_along_row(const Nest& nest, const Row& row) {
  int64_t most = 0;
  bool along = false;
  for (size_t i = 0; i < nest.lines(); ++i) {
    const Access& access = nest.access[i];
    if (access.tensor < 0 || !(nest.letters[i] & row.reduced)) continue;
    const int64_t points = nest.points(nest.letters[i]);
    if (points <= most) continue;
    most = points;
    int64_t nearest = INT64_MAX;
    for (int l = 0; l < kMaxLetters; ++l) {
      const int64_t step = std::abs(access.address.coef[l]);
      if (step == 0 || step >= nearest || !(nest.active >> l & 1)) continue;
      nearest = step;
      along = row.reduced >> l & 1;
    }
  }
  return along;
}

Way choose(const Work& work, const Nest& nest, const Row& row) {
  constexpr int64_t kShort = 16;          // of a window: a thread does it alone
  constexpr int64_t kBusy = 512;          // threads of a processor that are enough
  constexpr int64_t kWarpRow = 1024;      // longer rows get a block
  if (row.length <= kShort) return Way::serial;
  const bool busy = row.rows >= kBusy * work.device.processors;
  if (!runs_along_row(nest, row)) return busy ? Way::serial : Way::column;
  return row.length <= kWarpRow ? Way::warp : Way::block;
}

}  // namespace

void print_stores(Body& body, const Row& row, const Team& team, const std::string& guard,
                  const std::string& leader) {
  const Nest& nest = body.nest;
  std::vector<int> once, each;
  for (int line : nest.stores) {
    (nest.letters[static_cast<size_t>(line)] & row.reduced ? each : once).push_back(line);
  }
  if (!once.empty()) {
    std::string test = guard;
    if (!leader.empty()) test += (test.empty() ? "" : " && ") + leader;
    const bool block = !test.empty();
    for (int line : once) body.need(nest.needs(line)[0]);
    if (block) body.enter("if (" + test + ")");
    for (int line : once) body.store(line);
    if (block) body.leave();
  }
  if (each.empty()) return;
  for (int line : each) {
    for (int from : nest.needs(line)) body.hoist(from, row.reduced);
  }
  if (!guard.empty()) body.enter("if (" + guard + ")");
  const int blocks = body.loop(row.reduced, team);
  for (int line : each) body.store(line);
  for (int i = 0; i < blocks; ++i) body.leave();
  if (!guard.empty()) body.leave();
}

int fastest(const Nest& nest, LetterSet set) {
  for (size_t i = 0; i < nest.lines(); ++i) {
    for (int l = 0; l < kMaxLetters; ++l) {
      const bool load = nest.access[i].tensor >= 0;
      if (load && (set & nest.letters[i]) >> l & 1 && nest.access[i].address.coef[l] == 1) return l;
    }
  }
  return -1;
}

int blocks_of(const Work& work, int threads) {
  return work.device.arch >= 100 ? 1024 / threads : 0;
}

Team warp_team() { return {32, "threadIdx.x", "warp_", ", 32", ""}; }

Team block_team(int threads) {
  return {threads, "threadIdx.x", "block_",
          ", ($*)shared_bytes(), threadIdx.x, " + std::to_string(threads), ""};
}

Team column_team(int height) {
  return {height, "threadIdx.y", "column_",
          ", ($*)shared_bytes(), threadIdx.x, threadIdx.y, " + std::to_string(kWidth) + ", " +
              std::to_string(height),
          ""};
}

Status plan_rows(Work& work, size_t stage, const Nest& nest) {
  const Row row = row_of(nest);
  const Way way = choose(work, nest, row);
  bool split = false;
  if (way == Way::block || way == Way::column) {
    if (Status status = split_rows(work, stage, nest, row, way, &split); split) return status;
  }
  Text text(work.bound, nest.wide() || work.device.wide);
  Body body(nest, text);
  body.memory_aligned = work.device.aligned;
  const std::string type = text.index();
  const std::vector<int> kept =
      nest.order(row.kept, nest.access[static_cast<size_t>(nest.stores[0])]);
  Shape shape;
  Team team;
  if (way == Way::warp || way == Way::block) {
    const int letter = fastest(nest, row.reduced);
    if (letter >= 0) choose_lanes(body, letter);
  }
  if (way == Way::serial) {
    // Runs of rows, as long as enough threads remain.
    if (!kept.empty()) choose_lanes(body, kept.back());
    while (body.lanes > 1 && row.rows / body.lanes < kThreads * work.device.processors) {
      body.lanes /= 2;
    }
    const int64_t runs = row.rows / body.lanes;
    text.line("const " + type + " i = blockIdx.x * (" + type + ")blockDim.x + threadIdx.x;");
    text.line("if (i >= " + text.number(runs, false) + ") return;");
    body.decompose("i", kept, body.lanes);
    print_levels(body, row, team, "", "");
    shape.block[0] = kThreads;
    shape.grid[0] = (runs + kThreads - 1) / kThreads;
    return work.add(stage, "serial", text, shape, blocks_of(work, kThreads));
  }
  if (way == Way::warp) {
    constexpr unsigned kRows = 8;
    team = warp_team();
    text.line("const " + type + " i = blockIdx.x * (" + type + ")blockDim.y + threadIdx.y;");
    text.line("if (i >= " + text.number(row.rows, false) + ") return;");
    body.decompose("i", kept);
    print_levels(body, row, team, "", "threadIdx.x == 0");
    shape.block[0] = 32;
    shape.block[1] = kRows;
    shape.grid[0] = (row.rows + kRows - 1) / kRows;
    return work.add(stage, "warp_rows", text, shape);
  }
  if (way == Way::block) {
    const int threads = row.length / body.lanes <= 1024   ? 256
                        : row.length / body.lanes <= 4096 ? 512
                                                          : 1024;
    team = block_team(threads);
    text.line("const " + type + " i = blockIdx.x;");
    body.decompose("i", kept);
    print_levels(body, row, team, "", "threadIdx.x == 0");
    shape.block[0] = static_cast<unsigned>(threads);
    shape.grid[0] = row.rows;
    shape.shared_bytes = kFolded;
    return work.add(stage, "block_rows", text, shape);
  }
  int height = 4;
  while (height < 32 && height * 8 <= row.length) height *= 2;
  team = column_team(height);
  const std::string rows = text.number(row.rows, false);
  text.line("const " + type + " place = blockIdx.x * (" + type + ")blockDim.x + threadIdx.x;");
  // Threads beside the last row compute it too, so that all meet at the barriers.
  text.line("const " + type + " i = place < " + rows + " ? place : " + rows + " - 1;");
  body.decompose("i", kept);
  print_levels(body, row, team, "place < " + rows, "threadIdx.y == 0");
  shape.block[0] = kWidth;
  shape.block[1] = static_cast<unsigned>(height);
  shape.grid[0] = (row.rows + kWidth - 1) / kWidth;
  shape.shared_bytes = kWidth * height * 8;
  return work.add(stage, "columns", text, shape, blocks_of(work, kWidth * height));
}

}  // namespace onnx_fusion::cuda
