// What a contraction keeps in which cache: blocks of k, of rows and panels, and strips of results.
#include <algorithm>

#include "cpu/contract_plan.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kDepthBlock = 256;        // k between two passes over the accumulators
constexpr int64_t kPackedFloats = 1 << 18;  // of rows packed at once
constexpr int64_t kPanelFloats = 80 << 10;  // of panels packed at once
constexpr int64_t kSumFloats = 48 << 10;    // accumulators held over blocks of k
constexpr int64_t kStripFloats = 2048;      // through the epilogue at once
constexpr int64_t kStripColumns = 384;      // at least, if there are as many

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

void ContractPlan::choose_depth() {
  if (pieces_.empty()) pieces_.push_back({0, depth_});
  // One row reads its weights once: nothing to keep in a cache between blocks of k.
  const int64_t depth_block = rows_ == 1 ? std::max<int64_t>(depth_, 1) : kDepthBlock;
  const int64_t blocks = std::max<int64_t>(1, (depth_ + depth_block / 2) / depth_block);
  const int64_t target = std::max<int64_t>(1, round_up(depth_, blocks) / blocks);
  std::vector<Piece> pieces;
  int64_t filled = 0;
  blocks_.push_back({0, 0});
  for (Piece piece : pieces_) {
    while (piece.k0 < piece.k1) {
      int64_t end = std::min(piece.k1, piece.k0 + target - filled);
      if (piece.k1 - end < target / 4) end = piece.k1;
      pieces.push_back({piece.k0, end});
      filled += end - piece.k0;
      piece.k0 = end;
      blocks_.back().last = static_cast<int>(pieces.size());
      if (filled >= target) {
        blocks_.push_back({blocks_.back().last, blocks_.back().last});
        filled = 0;
      }
    }
  }
  if (pieces.empty()) {
    pieces.push_back({0, 0});
    blocks_.back().last = 1;
  }
  if (blocks_.back().first == blocks_.back().last) blocks_.pop_back();
  pieces_ = std::move(pieces);
}

void ContractPlan::choose_blocks() {
  choose_depth();
  const int64_t all_rows = round_up(rows_, tile_rows_);
  const auto packs = [](const Side& side) {
    return side.source == Source::tables || side.source == Source::computed;
  };
  const int64_t depth = std::max<int64_t>(depth_, 1);
  int64_t deepest = 1;
  for (const Block& block : blocks_) {
    deepest = std::max(deepest, pieces_[block.last - 1].k1 - pieces_[block.first].k0);
  }
  const bool one_block = blocks_.size() == 1;
  row_block_ = all_rows;
  if (packs(rows_side_)) {
    row_block_ = std::min(all_rows, round_up(std::max<int64_t>(64, kPackedFloats / depth), tile_rows_));
  }
  row_chunk_ = row_block_;
  if (!one_block) row_chunk_ = std::min(row_chunk_, round_up(kSumFloats / width_ - 8, tile_rows_));

  // The epilogue wants long stretches of what lies together: columns, or rows if it is transposed.
  if (transposed_) {
    strip_rows_ = std::min(row_chunk_, round_up(256, tile_rows_));
    strip_panels_ = 1;
  } else if (rows_ == 1) {
    const int64_t stream = kernels_.stream_width;
    strip_rows_ = 1;
    strip_panels_ = std::min(panels_, std::max(stream, kStripFloats / width_ / stream * stream));
  } else {
    const int64_t columns = std::max(kStripColumns, 2 * kStripFloats / std::min<int64_t>(32, all_rows));
    strip_panels_ = std::min(panels_, std::max<int64_t>(1, columns / width_));
    const int64_t rows = kStripFloats / (strip_panels_ * width_) / tile_rows_ * tile_rows_;
    strip_rows_ = std::min(row_chunk_, std::max(rows, tile_rows_));
  }

  panel_block_ = std::max<int64_t>(1, kSumFloats / (row_chunk_ * width_));
  if (one_block) panel_block_ = panels_;
  if (packs(columns_side_)) {
    panel_block_ = std::min(panel_block_, std::max<int64_t>(1, kPanelFloats / (deepest * width_)));
  }
  panel_block_ = std::min(panel_block_, panels_);
  strip_panels_ = std::min(strip_panels_, panel_block_);
  if (rows_ > 1) panel_block_ = panel_block_ / strip_panels_ * strip_panels_;

  if (packs(rows_side_)) row_floats_ = row_block_ * depth;
  if (packs(columns_side_)) column_floats_ = panel_block_ * width_ * deepest;
  sum_floats_ = one_block ? round_up(strip_rows_, tile_rows_) * strip_panels_ * width_
                          : row_chunk_ * panel_block_ * width_;
  if (transposed_) turned_floats_ = round_up(strip_rows_, tile_rows_) * strip_panels_ * width_;
  for (const Side* side : {&rows_side_, &columns_side_}) {
    if (side->source != Source::computed) continue;
    prologue_bytes_ = std::max(prologue_bytes_, side->prologue->scratch_bytes());
  }
}

}  // namespace onnx_fusion::cpu
