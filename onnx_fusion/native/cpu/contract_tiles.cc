// A rectangle of a contraction in register tiles: panels outside, so that one stays in the
// first-level cache while all rows pass it.
#include <algorithm>

#include "cpu/contract_plan.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLineFloats = 16;
constexpr int64_t kActiveColumns = 96;  // at once, at least
constexpr int64_t kNearDepth = 64;  // of k: less is done before the rows of the next tile arrive
constexpr int64_t kMostFetches =
    12;  // lines per step: more would crowd out the product's own loads

}  // namespace

// Of the panel, less what only pads the last one.
int ContractPlan::panel_vectors(int64_t panel) const {
  if ((panel + 1) * width_ <= columns_) return vectors_;
  const int64_t left = (columns_ - panel * width_ + kernels_.lanes - 1) / kernels_.lanes;
  return static_cast<int>(std::min<int64_t>(vectors_, left));
}

int64_t ContractPlan::panel_width(int64_t panel) const {
  if ((panel + 1) * width_ <= columns_) return width_;
  return std::min(width_, (columns_ - panel * width_ + unit_ - 1) / unit_ * unit_);
}

// Tiles of direct rows are of about the same size.
ContractPlan::Tiling ContractPlan::tile_rows(int64_t rows, int64_t most) const {
  const int64_t tiles = (rows + most - 1) / most;
  if (rows_side_.source != Source::direct && rows_side_.source != Source::indexed) {
    const int64_t whole = rows / most;
    return {{static_cast<int>(most), static_cast<int>(rows % most)}, {whole, tiles - whole}};
  }
  const int64_t more = rows % tiles;
  const int least = static_cast<int>(rows / tiles);
  return {{least + 1, least}, {more, tiles - more}};
}

// Where the rows of direct tiles begin for each piece of the block.
void ContractPlan::point_rows(const Item& item, const Buffers& buffers, const Block& block,
                              int64_t row0, int64_t row1) const {
  const OperandTables& tables = rows_side_.tables;
  const float** to = buffers.pointers;
  const auto point = [&](int64_t row, int64_t count, int piece) {
    const int64_t k0 = pieces_[piece].k0;
    const float* base = item.rows + (depth_ > 0 ? tables.inner[k0] : 0);
    const int64_t* const outer = tables.outer.data() + row;
    const float** const begin = to;
    if (apart_ > 0) {
      const float* at = base + outer[0];
      for (int64_t i = 0; i < count; ++i, at += apart_) begin[i] = at;
    } else {
      for (int64_t i = 0; i < count; ++i) begin[i] = base + outer[i];
    }
    for (const TableGuard& guard : tables.guards) {
      const int32_t* at = guard.outer.data() + row;
      const int32_t inner = guard.inner[k0];
      for (int64_t i = 0; i < count; ++i) {
        if (static_cast<uint32_t>(at[i] + inner) >= guard.extent) to[i] = padding_.data();
      }
    }
    to += count;
  };
  if (block.last - block.first == 1) {
    point(row0, row1 - row0, block.first);
  } else {
    const Tiling tiling = tile_rows(row1 - row0, tile_rows_);
    int64_t row = row0;
    for (int g = 0; g < 2; ++g) {
      for (int64_t t = 0; t < tiling.tiles[g]; ++t, row += tiling.rows[g]) {
        for (int p = block.first; p < block.last; ++p) point(row, tiling.rows[g], p);
      }
    }
  }
  // What is fetched ahead of the last tile.
  std::fill(to, to + kMostAhead * kMostTileRows, to[-1]);
}

// Which tiles read anything but zeros outside: those of a window far from the image need not be
// added.
bool ContractPlan::find_empty(const Buffers& buffers, int pieces, const Tiling& tiling) const {
  const float* const* a = buffers.pointers;
  uint8_t* whole = buffers.whole;
  bool empty = false;
  for (int g = 0; g < 2; ++g) {
    for (int64_t t = 0; t < tiling.tiles[g]; ++t, a += tiling.rows[g] * pieces, ++whole) {
      *whole = std::any_of(a, a + tiling.rows[g] * pieces,
                           [&](const float* row) { return row != padding_.data(); });
      empty = empty || *whole == 0;
    }
  }
  return empty;
}

// The block's k of one row, with what is outside filled in.
void ContractPlan::copy_border(const float* base, const Block& block, int64_t row,
                               float* to) const {
  const OperandTables& tables = rows_side_.tables;
  const int64_t k0 = pieces_[block.first].k0, k1 = pieces_[block.last - 1].k1;
  for (const Run& run : runs_) {
    const int64_t begin = std::max(run.begin, k0), end = std::min(run.end, k1);
    if (begin >= end) continue;
    bool inside = true;
    for (const TableGuard& guard : tables.guards) {
      inside =
          inside && static_cast<uint32_t>(guard.outer[row] + guard.inner[begin]) < guard.extent;
    }
    for (int64_t k = begin; k < end; ++k) {
      to[k - k0] = inside ? base[tables.inner[k]] : tables.fill;
    }
  }
}

void ContractPlan::point_indexed(const Item& item, const Buffers& buffers, const Block& block,
                                 int64_t row0, int64_t row1) const {
  const OperandTables& tables = rows_side_.tables;
  const int64_t depth = pieces_[block.last - 1].k1 - pieces_[block.first].k0;
  const float** to = buffers.pointers;
  float* copy = buffers.borders;
  uint8_t* whole = buffers.whole;
  const Tiling tiling = tile_rows(row1 - row0, tile_rows_);
  int64_t row = row0;
  for (int64_t t = 0; t < tiling.tiles[0] + tiling.tiles[1]; ++t, ++whole) {
    const int count = tiling.rows[t < tiling.tiles[0] ? 0 : 1];
    *whole = std::all_of(inside_.begin() + row, inside_.begin() + row + count,
                         [](uint8_t inside) { return inside != 0; });
    for (int i = 0; i < count; ++i, ++row, ++to) {
      const float* base = item.rows + tables.outer[row];
      *to = base;
      if (*whole) continue;
      copy_border(base, block, row, copy);
      *to = copy;
      copy += depth;
    }
  }
}

const float* ContractPlan::find_panel(const Item& item, const Buffers& buffers, const Place& packed,
                                      const Block& block, int64_t panel,
                                      int64_t* panel_floats) const {
  const OperandTables& tables = columns_side_.tables;
  const int64_t k0 = pieces_[block.first].k0;
  const int64_t width = panel_width(panel);
  *panel_floats = width_ * depth_;
  switch (columns_side_.source) {
    case Source::cached: return item.columns + panel * width_ * depth_ + k0 * width;
    case Source::lines:
    case Source::direct: return item.columns + tables.outer[panel * width_] + tables.inner[k0];
    case Source::dots: return item.columns + tables.inner[k0];
    default: break;
  }
  *panel_floats = width_ * (pieces_[block.last - 1].k1 - k0);
  return buffers.columns + (panel - packed.panel) * *panel_floats;
}

// One or two rows.
void ContractPlan::run_streams(const Item& item, const Buffers& buffers, const Place& packed,
                               const Block& block, int64_t panel0, int64_t panel1, float* c,
                               int64_t ldc, bool add) const {
  const int rows = static_cast<int>(rows_);
  const bool direct = rows_side_.source == Source::direct;
  const float* together[2];
  for (int i = 0; i < rows && !direct; ++i) {
    together[i] = (rows_side_.source == Source::cached ? item.rows : buffers.rows) +
                  pieces_[block.first].k0 * tile_rows_ + i;
  }
  const int64_t most = tiles_.streams[rows];
  for (int64_t panel = panel0; panel < panel1;) {
    const int vectors = panel_vectors(panel);
    int64_t panels = 1;
    while (panels < most && panel + panels < panel1 && panel_vectors(panel + panels) == vectors) {
      ++panels;
    }
    int64_t panel_floats;
    const float* b = find_panel(item, buffers, packed, block, panel, &panel_floats);
    float* to = c + (panel - panel0) * width_;
    if (columns_side_.source == Source::lines) {
      panels = panel1 - panel;
      const int64_t columns = std::min(columns_, panel1 * width_) - panel * width_;
      for (int p = block.first; p < block.last; ++p) {
        const float* a = direct ? buffers.pointers[p - block.first] : together[0];
        tiles_.spread({depths_[p], a, direct ? row_step_ : tile_rows_, b, column_step_, columns, to,
                       add || p > block.first});
        b += depths_[p] * column_step_;
      }
      break;
    }
    for (int p = block.first; p < block.last; ++p) {
      const float* const* a = direct ? buffers.pointers + (p - block.first) * rows : together;
      if (columns_side_.source == Source::dots) {
        run_dots(b, a[0], depths_[p], panel * width_, std::min(columns_, (panel + panels) * width_),
                 to, add);
        continue;
      }
      const StreamCall call{depths_[p], a,   direct ? row_step_ : tile_rows_, b, panel_floats,
                            to,         ldc, add || p > block.first};
      tiles_.stream(rows, static_cast<int>(panels), vectors, call);
      b += depths_[p] * vectors * kernels_.lanes;
    }
    panel += panels;
  }
}

Weights ContractPlan::panel_weights(const Item& item, const Block& block, int64_t panel) const {
  const int64_t k0 = pieces_[block.first].k0, width = panel_width(panel);
  return {item.columns + panel * width_ * depth_ + k0 * width,
          width * (pieces_[block.last - 1].k1 - k0)};
}

// What is read after a panel of a block. The blocks of k of some panels come before the next
// panels; further rows read the same panels again.
Weights ContractPlan::next_weights(const Item& item, const Block& block, bool last_rows,
                                   int64_t panel0, int64_t panel1, int64_t panel) const {
  if (panel + 1 < panel1) return panel_weights(item, block, panel + 1);
  if (&block != &blocks_.back()) return panel_weights(item, *(&block + 1), panel0);
  if (!last_rows) return {nullptr, 0};
  if (panel1 < item.panel1) return panel_weights(item, blocks_.front(), panel1);
  return successor_.next();
}

// What the tiles of a panel fetch: the next panel, of which each brings its part. Weights come from
// afar, and every panel's first tile would wait for them.
ContractPlan::Fetch ContractPlan::fetch_next(const Item& item, const Block& block, int64_t row1,
                                             int64_t panel0, int64_t panel1, int64_t panel,
                                             int64_t tiles) const {
  const int64_t steps = (pieces_[block.last - 1].k1 - pieces_[block.first].k0) / kFetchStep;
  if (columns_side_.source != Source::cached || rows_side_.source == Source::indexed || tiles < 2 ||
      steps == 0) {
    return {nullptr, 0, 0};
  }
  const Weights next = next_weights(item, block, row1 == item.row1, panel0, panel1, panel);
  const int64_t lines = (next.floats + kLineFloats - 1) / kLineFloats;
  const int64_t each =
      std::min<int64_t>((lines + tiles * steps - 1) / (tiles * steps), kMostFetches);
  return {next.begin, each * steps * kLineFloats, static_cast<int>(each)};
}

// One block of k of all tiles of a rectangle, into c, or finished.
void ContractPlan::run_tiles(const Item& item, const Buffers& buffers, const Place& packed,
                             const Block& block, int64_t row0, int64_t row1, int64_t panel0,
                             int64_t panel1, float* c, int64_t ldc, bool add,
                             const FinishRows* finish) const {
  const bool indexed = rows_side_.source == Source::indexed;
  const bool direct = rows_side_.source == Source::direct;
  const bool lines = lines_.pixels > 0;
  if (lines) point_lines(item, buffers, row0, row1);
  if (indexed && !lines) point_indexed(item, buffers, block, row0, row1);
  if (direct) point_rows(item, buffers, block, row0, row1);
  if (streams_) {
    return run_streams(item, buffers, packed, block, panel0, panel1, c, ldc, add);
  }
  const int pieces = block.last - block.first;
  const bool strided = columns_side_.source == Source::direct || (direct && row_step_ != 1);
  TileRows kind = strided ? TileRows::strided : direct ? TileRows::direct : TileRows::packed;
  TileCall call{};
  call.pieces = pieces;
  call.depths = depths_.data() + block.first;
  const std::vector<int64_t>& offsets = lines ? lines_.offsets : rows_side_.tables.inner;
  if (indexed) call.offsets = offsets.data() + pieces_[block.first].k0;
  call.add = add;
  call.ldc = ldc;
  if (pieces == 1) call.apart = apart_;
  call.a_step = direct ? row_step_ : tile_rows_;
  FinishRows rows;
  const float* starts[kMostTileRows];
  Tiling tiling = tile_rows(row1 - row0, tile_rows_);
  const int64_t depth = pieces_[block.last - 1].k1 - pieces_[block.first].k0;
  const bool skips = direct && add && finish == nullptr && !padding_.empty() &&
                     rows_side_.tables.fill == 0 && find_empty(buffers, pieces, tiling);
  const int64_t early =
      std::clamp<int64_t>(kNearDepth / std::max<int64_t>(depth, 1), 1, kMostAhead);
  int64_t active = 0;  // columns that are activated
  for (int64_t panel = panel0; panel < panel1; ++panel) {
    int64_t panel_floats;
    const int vectors = panel_vectors(panel);
    const int64_t width = panel_width(panel);
    call.halved = width < static_cast<int64_t>(vectors) * kernels_.lanes;
    call.b = find_panel(item, buffers, packed, block, panel, &panel_floats);
    call.b_step = columns_side_.source == Source::direct ? column_step_ : width;
    const int64_t column = (panel - panel0) * width_;
    // A narrower panel's tiles are higher, where pointers to rows lie one behind the other.
    if (vectors < vectors_ && direct && pieces == 1 && !skips) {
      tiling = tile_rows(row1 - row0, tiles_.rows[vectors]);
    }
    const int64_t tiles = tiling.tiles[0] + tiling.tiles[1];
    const Fetch fetch = fetch_next(item, block, row1, panel0, panel1, panel, tiles);
    call.fetch = fetch.begin;
    call.fetch_lines = fetch.lines;
    const float* const* a = buffers.pointers;
    const uint8_t* whole = buffers.whole;
    int64_t row = row0;
    for (int64_t t = 0; t < tiles; t += call.tiles) {
      const int64_t end = t < tiling.tiles[0] ? tiling.tiles[0] : tiles;
      const int count = tiling.rows[t < tiling.tiles[0] ? 0 : 1];
      call.tiles = end - t;
      if (indexed) {
        call.a = a;
        const auto same = std::find(whole + 1, whole + call.tiles, *whole ? 0 : 1);
        kind = *whole ? TileRows::indexed : TileRows::direct;
        call.tiles = same - whole;
        whole = same;
        a += call.tiles * count;
      } else if (direct) {
        bool empty = false;
        if (skips) {
          const auto same = std::find(whole + 1, whole + call.tiles, *whole ? 0 : 1);
          empty = *whole == 0;
          call.tiles = same - whole;
          whole = same;
        }
        call.a = a;
        a += call.tiles * count * pieces;
        call.ahead = blocks_.size() == 1 && pieces == 1 ? call.a + early * count : nullptr;
        if (empty) {
          row += call.tiles * count;
          continue;
        }
      } else {
        const float* tile = rows_side_.source == Source::cached
                                ? item.rows + row * depth_
                                : buffers.rows + (row - packed.row) * depth_;
        tile += pieces_[block.first].k0 * tile_rows_;
        for (int i = 0; i < count; ++i) starts[i] = tile + i;
        call.a = starts;
        call.tiles = 1;
      }
      const int64_t r = row - row0;
      if (c != nullptr) call.c = c + r * ldc + column;
      if (finish != nullptr) {
        rows = *finish;
        if (rows.row_bias != nullptr) rows.row_bias += r * rows.row_step;
        if (rows.residual != nullptr) rows.residual += r * rows.residual_ld;
        if (rows.slope != nullptr) rows.slope += r * rows.slope_row;
        rows.out += r * rows.out_ld;
        rows.skip(column);
        rows.columns = std::min(columns_ - panel * width_, width);
        call.finish = &rows;
      }
      tiles_.tile(kind, count, vectors, call);
      call.fetch += fetch.step * call.tiles;
      row += call.tiles * count;
    }
    if (finish == nullptr || !finish->again() || tiles_.activates) continue;
    const int64_t end = std::min(columns_ - panel0 * width_, column + width);
    if (panel + 1 < panel1 && end - active < kActiveColumns) continue;
    rows = *finish;  // while these results are near
    rows.rows = row1 - row0;
    rows.columns = end - active;
    rows.skip(active);
    finish_passes().activate(rows);
    active = end;
  }
}

void ContractPlan::run_dots(const float* columns, const float* row, int64_t depth, int64_t column0,
                            int64_t column1, float* c, bool add) const {
  for (int64_t j = column0; j < column1; j += 4) {
    const float* b[4];
    const int some = static_cast<int>(std::min<int64_t>(4, column1 - j));
    for (int i = 0; i < some; ++i) b[i] = columns + columns_side_.tables.outer[j + i];
    tiles_.dots(depth, row, b, some, c + (j - column0), add);
  }
}

}  // namespace onnx_fusion::cpu
