// How a ContractPlan runs: tasks take parts of the rows and panels, pack what is not packed, and
// carry strips of finished accumulators through the epilogue while they are in the first-level
// cache.
#include <algorithm>
#include <cstring>

#include "cpu/contract_plan.h"
#include "cpu/parallel.h"

namespace onnx_fusion::cpu {
namespace {

struct Split {
  int64_t rows, panels;
};

// What there is to do for a batch, and floats of operands and results. A thread reads again what is
// constant; what it reads of other tensors, another one may have written.
struct Work {
  int64_t row_units, panels, extent, width;  // columns: of all panels, of one
  double nanoseconds;  // on one thread
  double rows, columns, results;
  bool constant_rows, constant_columns;
};

constexpr double kForeign = 0.7, kStreamed = 0.1;  // nanoseconds per float

// The most columns of one of so many parts.
int64_t most_columns(const Work& work, int64_t parts) {
  int64_t most = 0;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t begin = work.panels * i / parts * work.width;
    const int64_t end = work.panels * (i + 1) / parts * work.width;
    most = std::max(most, std::min(work.extent, end) - begin);
  }
  return most;
}

// Of `parts` pieces per batch, how many along the rows and how many along the panels. Stages that
// share out an image's lines in the same way find in their caches what they wrote themselves.
Split split_work(int64_t parts, const Work& work, bool packs_columns) {
  Split best{1, 1};
  double least = 0;
  for (int64_t r = 1; r <= parts; ++r) {
    const int64_t p = parts / r;
    if (r > work.row_units || p > work.panels) continue;
    const int64_t largest = ((work.row_units + r - 1) / r) * most_columns(work, p);
    const double share =
        static_cast<double>(largest) / static_cast<double>(work.row_units * work.extent);
    const double of_rows = 1.0 / static_cast<double>(r), of_panels = 1.0 / static_cast<double>(p);
    const auto read = [](double floats, bool constant, double own, double other) {
      return floats * own * (constant ? kStreamed : kForeign * (1 - other));
    };
    const double mixed = work.constant_rows == work.constant_columns ? 0.0
                         : work.constant_columns                     ? 1 - of_panels
                                                                     : 1 - of_rows;
    const double cost = share * work.nanoseconds +
                        read(work.rows, work.constant_rows, of_rows, of_panels) +
                        read(work.columns, work.constant_columns, of_panels, of_rows) +
                        work.results * of_rows * of_panels * kForeign * mixed;
    if (best.rows * best.panels > 1 && (packs_columns ? cost >= least : cost > least)) continue;
    best = {r, p};
    least = cost;
  }
  return best;
}

template <typename T>
T* take(char** at, int64_t count) {
  T* taken = reinterpret_cast<T*>(*at);
  *at += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  return taken;
}

}  // namespace

void ContractPlan::run(const RunContext& context) const {
  const BoundStage& stage = context.bound->stages[stage_index_];
  if (stage.empty) return;
  if (columns_side_.source == Source::cached && batches_ > 0) {
    const float* columns = columns_side_.weights->data() + columns_side_.slot[0];
    successor_.begin({columns, panel_width(0) * (pieces_[blocks_[0].last - 1].k1)});
  }
  // Rows that are read where they lie are cut anywhere: what is left gives tiles of about one size.
  const bool anywhere = rows_side_.source == Source::direct && rows_ >= 2 * tile_rows_;
  const int64_t unit = lines_.pixels > 0 ? lines_.pixels : anywhere ? 1 : tile_rows_;
  const int64_t row_units = (rows_ + unit - 1) / unit;
  const double points =
      static_cast<double>(batches_) * static_cast<double>(rows_) * static_cast<double>(columns_);
  const double per_point = 1.0 + static_cast<double>(depth_) / (2.0 * kernels_.lanes);
  const double floats_read = streams_ ? points * static_cast<double>(depth_) : 0;
  const double nanoseconds =
      std::max(points * per_point * 0.6, read_nanoseconds(floats_read * sizeof(float)));
  const int64_t tasks = task_count(*context.parallel, nanoseconds);
  Split split{1, 1};
  if (tasks > 1 && batches_ < 4 * tasks && batches_ % tasks != 0) {
    const auto is_constant = [](const Side& side) {
      return side.source == Source::cached || side.source == Source::scaled;
    };
    const auto floats = [&](const Side& side, int64_t count) {
      const double all = static_cast<double>(count) * static_cast<double>(depth_);
      if (is_constant(side) || side.tensor < 0) return all;
      const int64_t elements = context.bound->tensors[static_cast<size_t>(side.tensor)].elements;
      return std::min(all, static_cast<double>(elements));
    };
    const Work work{row_units,
                    panels_,
                    columns_,
                    width_,
                    nanoseconds / static_cast<double>(batches_),
                    floats(rows_side_, rows_),
                    floats(columns_side_, columns_),
                    static_cast<double>(rows_) * static_cast<double>(columns_),
                    is_constant(rows_side_),
                    is_constant(columns_side_)};
    split = split_work(
        tasks, work,
        columns_side_.source == Source::tables || columns_side_.source == Source::computed);
  }
  const int64_t parts = split.rows * split.panels;
  const bool scaled = columns_side_.source == Source::scaled;
  const int64_t factor_floats = scaled ? depth_ : 0;

  const size_t bytes =
      static_cast<size_t>(row_floats_ + column_floats_ + sum_floats_ + turned_floats_) *
          sizeof(float) +
      static_cast<size_t>(border_floats_ + factor_floats) * sizeof(float) +
      static_cast<size_t>(pointers_) * (sizeof(float*) + 1) + prologue_bytes_ +
      epilogue_->scratch_bytes() + 10 * 64;
  const auto task = [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(bytes);
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    char* at = scratch.data();
    Buffers buffers;
    buffers.rows = take<float>(&at, row_floats_);
    buffers.columns = take<float>(&at, column_floats_);
    buffers.sums = take<float>(&at, sum_floats_);
    buffers.turned = take<float>(&at, turned_floats_);
    buffers.pointers = take<const float*>(&at, pointers_);
    buffers.borders = take<float>(&at, border_floats_);
    buffers.factors = take<float>(&at, factor_floats);
    buffers.whole = take<uint8_t>(&at, pointers_);
    buffers.prologue = at;
    buffers.epilogue = at + (prologue_bytes_ + 63) / 64 * 64;
    int64_t scaled_for = -1;  // batch
    for (int64_t i = begin; i < end; ++i) {
      int64_t fixed[kMaxLetters] = {};
      const int64_t row_part = i % parts / split.panels, panel_part = i % split.panels;
      Item item;
      item.batch = i / parts;
      item.row0 = row_units * row_part / split.rows * unit;
      item.row1 = std::min(rows_, row_units * (row_part + 1) / split.rows * unit);
      item.panel0 = panels_ * panel_part / split.panels;
      item.panel1 = panels_ * (panel_part + 1) / split.panels;
      locate(stage, batch_, item.batch, fixed);
      item.fixed = fixed;
      if (scaled && item.batch != scaled_for) {
        columns_side_.prologue->run(context, fixed, 0, 1, 0, depth_, buffers.factors, depth_, 1,
                                    buffers.prologue);
        scaled_for = item.batch;
      }
      const auto memory = [&](const Side& side) -> const float* {
        if (side.source == Source::computed) return nullptr;
        const bool packed = side.source == Source::cached || side.source == Source::scaled;
        if (packed) return side.weights->data() + side.slot[item.batch];
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
          inside =
              inside && static_cast<uint32_t>(guard.outer[row + i] + guard.inner[k]) < guard.extent;
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
  if (columns_side_.source == Source::scaled) {
    return scale_columns(item, block, panel0, panel1, buffers);
  }
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
    const int last = panel_vectors(panel1 - 1);
    const int64_t whole = last == vectors_ ? panel1 : panel1 - 1;
    if (whole > panel0) {
      kernels_.pack_columns(pack, panel0 * width_, (whole - panel0) * vectors_, vectors_, k0, depth,
                            buffers.columns);
    }
    if (whole < panel1) {
      kernels_.pack_columns(pack, whole * width_, last, last, k0, depth,
                            buffers.columns + (whole - panel0) * width_ * depth);
    }
    return;
  }
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    float* out = buffers.columns + (panel - panel0) * width_ * depth;
    const int64_t column1 = std::min(columns_, (panel + 1) * width_);
    const int64_t width = static_cast<int64_t>(panel_vectors(panel)) * kernels_.lanes;
    if (column1 < panel * width_ + width) {
      std::memset(out, 0, static_cast<size_t>(width * depth) * sizeof(float));
    }
    columns_side_.prologue->run(context, item.fixed, k0, k0 + depth, panel * width_, column1, out,
                                width, 1, buffers.prologue);
  }
}

void ContractPlan::run_block(const RunContext& context, const Item& item, const Buffers& buffers,
                             int64_t row0, int64_t row1, int64_t panel0, int64_t panel1,
                             int64_t packed_row) const {
  const Place place{packed_row, panel0};
  const auto target = [&](int64_t row, int64_t panel) {
    return epilogue_->finish()->rows(context, item.fixed, row, row, panel * width_, panel * width_,
                                     nullptr, 0);
  };
  if (blocks_.size() == 1) {
    if (column_floats_ > 0) pack_columns(context, item, blocks_[0], panel0, panel1, buffers);
    const int64_t ldc = strip_panels_ * width_;
    for (int64_t panel = panel0; panel < panel1; panel += strip_panels_) {
      const int64_t panel_end = std::min(panel1, panel + strip_panels_);
      for (int64_t row = row0; row < row1; row += strip_rows_) {
        const int64_t row_end = std::min(row1, row + strip_rows_);
        if (finishes_) {
          const FinishRows rows = target(row, panel);
          run_tiles(item, buffers, place, blocks_[0], row, row_end, panel, panel_end, nullptr, 0,
                    false, &rows);
          continue;
        }
        run_tiles(item, buffers, place, blocks_[0], row, row_end, panel, panel_end, buffers.sums,
                  ldc, false, nullptr);
        finish(context, item, buffers, row, row_end, panel, panel_end, buffers.sums, ldc);
      }
    }
    return;
  }
  const int64_t ldc = panel_block_ * width_;
  for (const Block& block : blocks_) {
    if (column_floats_ > 0) pack_columns(context, item, block, panel0, panel1, buffers);
    const bool last = finishes_ && &block == &blocks_.back();
    FinishRows rows;
    if (last) rows = target(row0, panel0);
    run_tiles(item, buffers, place, block, row0, row1, panel0, panel1, buffers.sums, ldc,
              &block != &blocks_.front(), last ? &rows : nullptr);
  }
  if (finishes_) return;
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

}  // namespace onnx_fusion::cpu
