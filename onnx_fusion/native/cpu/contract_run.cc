// How a ContractPlan runs: tasks take parts of the rows and panels, pack what is not packed, and carry
// strips of finished accumulators through the epilogue while they are in the first-level cache.
#include <algorithm>
#include <cstring>

#include "cpu/contract_plan.h"
#include "cpu/parallel.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int kMostRows = 8, kMostPieces = 32;

struct Split {
  int64_t rows, panels;
};

// Of `parts` pieces per batch, how many along the rows and how many along the panels: the largest
// piece as small as possible, then as little packed twice as possible.
Split split_work(int64_t parts, int64_t row_tiles, int64_t panels, bool packs_columns) {
  Split best{1, 1};
  int64_t least = row_tiles * panels;
  for (int64_t r = 1; r <= parts; ++r) {
    const int64_t p = parts / r;
    if (r > row_tiles || p > panels) continue;
    const int64_t largest = ((row_tiles + r - 1) / r) * ((panels + p - 1) / p);
    if (largest < least || (largest == least && !packs_columns)) {
      best = {r, p};
      least = largest;
    }
  }
  return best;
}

float* take(char** at, int64_t floats) {
  float* taken = reinterpret_cast<float*>(*at);
  *at += (floats * static_cast<int64_t>(sizeof(float)) + 63) / 64 * 64;
  return taken;
}

}  // namespace

struct ContractPlan::Item {
  int64_t batch;
  int64_t row0, row1, panel0, panel1;
  const int64_t* fixed;  // positions of all letters, the axes' ignored
  const float* rows;     // the operands' memory at this batch, or their packing in the plan
  const float* columns;
};

// What the first packed row and panel of the buffers are.
struct ContractPlan::Place {
  int64_t row, panel;
};

struct ContractPlan::Buffers {
  float* rows;
  float* columns;
  float* sums;
  float* turned;  // a finished strip, transposed
  char* prologue;
  char* epilogue;
};

void ContractPlan::run(const RunContext& context) const {
  const BoundStage& stage = context.bound->stages[stage_index_];
  if (stage.empty) return;
  const int64_t row_tiles = (rows_ + tile_rows_ - 1) / tile_rows_;
  const double points = static_cast<double>(batches_) * static_cast<double>(rows_) *
                        static_cast<double>(columns_);
  const double per_point = 1.0 + static_cast<double>(depth_) / (2.0 * kernels_.lanes);
  const int64_t tasks = task_count(*context.parallel, points * per_point * 0.6);
  Split split{1, 1};
  if (tasks > 1 && batches_ < 4 * tasks && batches_ % tasks != 0) {
    split = split_work(tasks, row_tiles, panels_, columns_side_.source == Source::tables ||
                                                      columns_side_.source == Source::computed);
  }
  const int64_t parts = split.rows * split.panels;

  const size_t bytes = static_cast<size_t>(row_floats_ + column_floats_ + sum_floats_ +
                                           turned_floats_) *
                           sizeof(float) +
                       prologue_bytes_ + epilogue_->scratch_bytes() + 6 * 64;
  const auto task = [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(bytes);
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    char* at = scratch.data();
    Buffers buffers;
    buffers.rows = take(&at, row_floats_);
    buffers.columns = take(&at, column_floats_);
    buffers.sums = take(&at, sum_floats_);
    buffers.turned = take(&at, turned_floats_);
    buffers.prologue = at;
    buffers.epilogue = at + (prologue_bytes_ + 63) / 64 * 64;
    for (int64_t i = begin; i < end; ++i) {
      int64_t fixed[kMaxLetters] = {};
      const int64_t row_part = i % parts / split.panels, panel_part = i % split.panels;
      Item item;
      item.batch = i / parts;
      item.row0 = row_tiles * row_part / split.rows * tile_rows_;
      item.row1 = std::min(rows_, row_tiles * (row_part + 1) / split.rows * tile_rows_);
      item.panel0 = panels_ * panel_part / split.panels;
      item.panel1 = panels_ * (panel_part + 1) / split.panels;
      locate(stage, batch_, item.batch, fixed);
      item.fixed = fixed;
      const auto memory = [&](const Side& side) -> const float* {
        if (side.source == Source::computed) return nullptr;
        if (side.source == Source::cached) return side.weights->data() + side.slot[item.batch];
        return reinterpret_cast<const float*>(context.tensors[side.tensor]) +
               side.tables.batch[item.batch];
      };
      item.rows = memory(rows_side_);
      item.columns = memory(columns_side_);
      run_item(context, item, buffers);
    }
  };
  parallel_ranges(*context.parallel, batches_ * parts, tasks, task);
}

void ContractPlan::run_item(const RunContext& context, const Item& item,
                            const Buffers& buffers) const {
  for (int64_t row0 = item.row0; row0 < item.row1; row0 += row_block_) {
    const int64_t row1 = std::min(item.row1, row0 + row_block_);
    if (row_floats_ > 0) pack_rows(context, item, row0, row1, buffers);
    for (int64_t panel0 = item.panel0; panel0 < item.panel1; panel0 += panel_block_) {
      const int64_t panel1 = std::min(item.panel1, panel0 + panel_block_);
      for (int64_t chunk0 = row0; chunk0 < row1; chunk0 += row_chunk_) {
        run_block(context, item, buffers, chunk0, std::min(row1, chunk0 + row_chunk_), panel0,
                  panel1, row0);
      }
    }
  }
}

// Packed as [tile][k][row of the tile]; packed_row's tile is the first in the buffer.
void ContractPlan::pack_rows(const RunContext& context, const Item& item, int64_t row0,
                             int64_t row1, const Buffers& buffers) const {
  for (int64_t row = row0; row < row1; row += tile_rows_) {
    float* out = buffers.rows + (row - row0) * depth_;
    const int64_t count = std::min(tile_rows_, row1 - row);
    if (rows_side_.source == Source::computed) {
      rows_side_.prologue->run(context, item.fixed, row, row + count, 0, depth_, out, 1, tile_rows_,
                               buffers.prologue);
      continue;
    }
    const OperandTables& tables = rows_side_.tables;
    for (int64_t k = 0; k < depth_; ++k, out += tile_rows_) {
      const float* base = item.rows + tables.inner[k];
      for (int64_t i = 0; i < count; ++i) {
        bool inside = true;
        for (const TableGuard& guard : tables.guards) {
          inside = inside &&
                   static_cast<uint32_t>(guard.outer[row + i] + guard.inner[k]) < guard.extent;
        }
        out[i] = inside ? base[tables.outer[row + i]] : tables.fill;
      }
    }
  }
}

// One block of k, packed as [panel][k][column of the panel].
void ContractPlan::pack_columns(const RunContext& context, const Item& item, const Block& block,
                                int64_t panel0, int64_t panel1, const Buffers& buffers) const {
  const int64_t k0 = pieces_[block.first].k0, depth = pieces_[block.last - 1].k1 - k0;
  const OperandTables& tables = columns_side_.tables;
  const ColumnPack pack{item.columns,
                        tables.outer.data(),
                        tables.inner.data(),
                        column_tables_.vectors.data(),
                        column_tables_.segments.data(),
                        column_guards_.data(),
                        static_cast<int>(column_guards_.size()),
                        tables.fill,
                        along_k_};
  if (columns_side_.source == Source::tables) {
    kernels_.pack_columns(pack, panel0 * width_, (panel1 - panel0) * vectors_, vectors_, k0,
                          depth, buffers.columns);
    return;
  }
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    float* out = buffers.columns + (panel - panel0) * width_ * depth;
    const int64_t column1 = std::min(columns_, (panel + 1) * width_);
    if (column1 < (panel + 1) * width_) {
      std::memset(out, 0, static_cast<size_t>(width_ * depth) * sizeof(float));
    }
    columns_side_.prologue->run(context, item.fixed, k0, k0 + depth, panel * width_, column1, out,
                                width_, 1, buffers.prologue);
  }
}

void ContractPlan::run_block(const RunContext& context, const Item& item, const Buffers& buffers,
                             int64_t row0, int64_t row1, int64_t panel0, int64_t panel1,
                             int64_t packed_row) const {
  const Place place{packed_row, panel0};
  if (blocks_.size() == 1) {
    if (column_floats_ > 0) pack_columns(context, item, blocks_[0], panel0, panel1, buffers);
    const int64_t ldc = strip_panels_ * width_;
    for (int64_t panel = panel0; panel < panel1; panel += strip_panels_) {
      const int64_t panel_end = std::min(panel1, panel + strip_panels_);
      for (int64_t row = row0; row < row1; row += strip_rows_) {
        const int64_t row_end = std::min(row1, row + strip_rows_);
        run_tiles(item, buffers, place, blocks_[0], row, row_end, panel, panel_end, buffers.sums,
                  ldc, false);
        finish(context, item, buffers, row, row_end, panel, panel_end, buffers.sums, ldc);
      }
    }
    return;
  }
  const int64_t ldc = panel_block_ * width_;
  for (const Block& block : blocks_) {
    if (column_floats_ > 0) pack_columns(context, item, block, panel0, panel1, buffers);
    run_tiles(item, buffers, place, block, row0, row1, panel0, panel1, buffers.sums, ldc,
              &block != &blocks_.front());
  }
  for (int64_t row = row0; row < row1; row += strip_rows_) {
    const int64_t row_end = std::min(row1, row + strip_rows_);
    for (int64_t panel = panel0; panel < panel1; panel += strip_panels_) {
      finish(context, item, buffers, row, row_end, panel, std::min(panel1, panel + strip_panels_),
             buffers.sums + (row - row0) * ldc + (panel - panel0) * width_, ldc);
    }
  }
}

// The epilogue of a strip of finished accumulators.
void ContractPlan::finish(const RunContext& context, const Item& item, const Buffers& buffers,
                          int64_t row0, int64_t row1, int64_t panel0, int64_t panel1,
                          const float* sums, int64_t ldc) const {
  const int64_t column0 = panel0 * width_, column1 = std::min(columns_, panel1 * width_);
  if (!transposed_) {
    epilogue_->run(context, item.fixed, row0, row1, column0, column1, sums, ldc, buffers.epilogue);
    return;
  }
  const int64_t ld = row1 - row0;
  kernels_.transpose(sums, ldc, ld, column1 - column0, buffers.turned, ld);
  epilogue_->run(context, item.fixed, column0, column1, row0, row1, buffers.turned, ld,
                 buffers.epilogue);
}

// Where `count` rows of some pieces of k begin; returns the step from one k to the next.
int64_t ContractPlan::find_rows(const Item& item, const Buffers& buffers, const Place& packed,
                                int first, int last, int64_t row, int count,
                                const float** a) const {
  const OperandTables& tables = rows_side_.tables;
  if (rows_side_.source != Source::direct) {
    const float* tile = rows_side_.source == Source::cached
                            ? item.rows + row * depth_
                            : buffers.rows + (row - packed.row) * depth_;
    for (int p = first; p < last; ++p, a += count) {
      for (int i = 0; i < count; ++i) a[i] = tile + pieces_[p].k0 * tile_rows_ + i;
    }
    return tile_rows_;
  }
  for (int p = first; p < last; ++p, a += count) {
    const int64_t k0 = pieces_[p].k0;
    const float* base = item.rows + (depth_ > 0 ? tables.inner[k0] : 0);
    for (int i = 0; i < count; ++i) a[i] = base + tables.outer[row + i];
    for (const TableGuard& guard : tables.guards) {
      for (int i = 0; i < count; ++i) {
        const int32_t at = guard.outer[row + i] + guard.inner[k0];
        if (static_cast<uint32_t>(at) >= guard.extent) a[i] = padding_.data();
      }
    }
  }
  return row_step_;
}

// One block of k of all tiles of a rectangle.
void ContractPlan::run_tiles(const Item& item, const Buffers& buffers, const Place& packed,
                             const Block& block, int64_t row0, int64_t row1, int64_t panel0,
                             int64_t panel1, float* c, int64_t ldc, bool add) const {
  const Source source = columns_side_.source;
  const OperandTables& tables = columns_side_.tables;
  const int64_t block_k0 = pieces_[block.first].k0;
  const int64_t packed_depth =
      source == Source::cached ? depth_ : pieces_[block.last - 1].k1 - block_k0;
  const int64_t stream = rows_ == 1 && source != Source::direct ? kernels_.stream_width : 1;
  const float* a[kMostPieces * kMostRows];
  int64_t depths[kMostPieces];

  for (int first = block.first; first < block.last; first += kMostPieces) {
    const int last = std::min(block.last, first + kMostPieces);
    const int64_t k0 = pieces_[first].k0;
    const bool more = add || first > block.first;
    for (int p = first; p < last; ++p) depths[p - first] = pieces_[p].k1 - pieces_[p].k0;
    for (int64_t panel = panel0; panel < panel1; panel += stream) {
      const int panels = static_cast<int>(std::min(stream, panel1 - panel));
      const float* b;
      if (source == Source::cached) {
        b = item.columns + panel * width_ * depth_ + k0 * width_;
      } else if (source == Source::direct || source == Source::dots) {
        b = item.columns + (source == Source::dots ? 0 : tables.outer[panel * width_]) +
            tables.inner[k0];
      } else {
        b = buffers.columns + (panel - packed.panel) * width_ * packed_depth +
            (k0 - block_k0) * width_;
      }
      const int64_t b_step = source == Source::direct ? column_step_ : width_;
      const int64_t left = (columns_ - panel * width_ + kernels_.lanes - 1) / kernels_.lanes;
      const int vectors = static_cast<int>(std::min<int64_t>(vectors_, left));
      for (int64_t row = row0; row < row1; row += tile_rows_) {
        const int count = static_cast<int>(std::min(tile_rows_, row1 - row));
        float* to = c + (row - row0) * ldc + (panel - panel0) * width_;
        const int64_t a_step = find_rows(item, buffers, packed, first, last, row, count, a);
        if (source == Source::dots) {
          run_dots(b, a[0], depths[0], panel * width_,
                   std::min(columns_, (panel + panels) * width_), to, more);
        } else if (stream == 1) {
          kernels_.tile(count, vectors, last - first, depths, a, a_step, b, b_step, to, ldc, more);
        } else {
          const float* at = b;
          for (int p = 0; p < last - first; at += depths[p] * width_, ++p) {
            kernels_.stream(panels, vectors_, depths[p], a[p], a_step, at, width_ * packed_depth, to,
                            more || p > 0);
          }
        }
      }
    }
  }
}

void ContractPlan::run_dots(const float* columns, const float* row, int64_t depth, int64_t column0,
                            int64_t column1, float* c, bool add) const {
  for (int64_t j = column0; j < column1; j += 4) {
    const float* b[4];
    const int some = static_cast<int>(std::min<int64_t>(4, column1 - j));
    for (int i = 0; i < some; ++i) b[i] = columns + columns_side_.tables.outer[j + i];
    kernels_.dots(depth, row, b, some, c + (j - column0), add);
  }
}

}  // namespace onnx_fusion::cpu
