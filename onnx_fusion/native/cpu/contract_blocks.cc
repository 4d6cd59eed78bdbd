// What a contraction keeps in which cache: blocks of k, of rows and panels, and strips of results.
#include <algorithm>

#include "cpu/contract_plan.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kDepthBlock = 384;        // k between two passes over the accumulators
constexpr int64_t kPackedFloats = 1 << 18;  // of rows packed at once
constexpr int64_t kPanelFloats = 80 << 10;  // of panels packed at once
constexpr int64_t kSumFloats = 48 << 10;    // accumulators held over blocks of k
constexpr int64_t kChunkFloats = 32
                                 << 10;  // of rows and results between two passes over the panels
constexpr int64_t kChunkRows = 48;  // at least: panels come from far
constexpr int64_t kFarRows = 208;  // the same of weights, with rows where they lie
constexpr int64_t kMostRows = 240;
constexpr int64_t kStripFloats = 12 << 10;  // accumulators that wait for the epilogue
constexpr int64_t kStripColumns = 256;  // of them at least, if there are as many
constexpr int64_t kPointers = 6 << 10;  // to rows, per piece of k

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
  for (const Piece& piece : pieces_) depths_.push_back(piece.k1 - piece.k0);
  const int64_t all_rows = round_up(rows_, tile_rows_);
  const auto packs = [](const Side& side) {
    return side.source == Source::tables || side.source == Source::computed ||
           side.source == Source::scaled;
  };
  const int64_t depth = std::max<int64_t>(depth_, 1);
  int64_t deepest = 1, most_pieces = 1;
  for (const Block& block : blocks_) {
    deepest = std::max(deepest, pieces_[block.last - 1].k1 - pieces_[block.first].k0);
    most_pieces = std::max<int64_t>(most_pieces, block.last - block.first);
  }
  const bool one_block = blocks_.size() == 1;
  streams_ = rows_ <= 2 && columns_side_.source != Source::direct;
  const Finish* finish = epilogue_->finish();
  finishes_ = finish != nullptr && finish->whole() && !transposed_ && !streams_;
  const bool indexed = rows_side_.source == Source::indexed;
  const int64_t most_rows = std::min(indexed ? kChunkRows : kMostRows, kPointers / most_pieces);
  const auto even = [&](int64_t all, int64_t most) {  // parts of about the same size
    const int64_t parts = (all + most - 1) / most;
    return std::min(round_up(all, tile_rows_), round_up((all + parts - 1) / parts, tile_rows_));
  };
  row_block_ = all_rows;
  if (packs(rows_side_)) {
    const int64_t rows = std::max<int64_t>(64, kPackedFloats / depth);
    row_block_ = std::min(all_rows, round_up(rows, tile_rows_));
  }
  int64_t most = kChunkFloats / (deepest + std::min<int64_t>(columns_, 1024));
  const bool far = columns_side_.source == Source::cached && rows_side_.source == Source::direct;
  most = std::min(std::max(most, far ? kFarRows : kChunkRows), most_rows);
  strip_rows_ = even(row_block_, std::max(most, tile_rows_));
  row_chunk_ = row_block_;
  if (!one_block) {
    row_chunk_ = even(row_block_, std::max(tile_rows_, most_rows));
  }

  // The epilogue wants long stretches of what lies together: columns, or rows if it is transposed.
  const int64_t stream = tiles_.streams[std::min<int64_t>(rows_, 2)];
  if (transposed_) {
    const int64_t rows = std::min<int64_t>(256, indexed ? most_rows : kPointers / most_pieces);
    strip_rows_ = std::min(row_chunk_, round_up(rows, tile_rows_));
    strip_panels_ = 1;
  } else if (streams_) {
    strip_rows_ = rows_;
    strip_panels_ = std::min(panels_, std::max(stream, 2048 / width_ / stream * stream));
  } else if (finishes_ && one_block) {
    strip_panels_ = panels_;
  } else {
    const int64_t columns = std::min(kStripColumns, panels_ * width_);
    const int64_t rows = kStripFloats / columns / tile_rows_ * tile_rows_;
    strip_rows_ = std::min(strip_rows_, std::max(tile_rows_, rows));
    strip_panels_ = std::min(panels_, std::max<int64_t>(1, kStripFloats / (strip_rows_ * width_)));
  }

  if (lines_.pixels > 0) {
    strip_rows_ = std::min(rows_, lines_.rows * lines_.pixels);
    strip_panels_ =
        finishes_ ? panels_ : std::max<int64_t>(1, kStripFloats / (strip_rows_ * width_));
  }

  panel_block_ = std::max<int64_t>(1, kSumFloats / (row_chunk_ * width_));
  if (one_block) panel_block_ = panels_;
  if (packs(columns_side_)) {
    panel_block_ = std::min(panel_block_, std::max<int64_t>(1, kPanelFloats / (deepest * width_)));
  }
  panel_block_ = std::min(panel_block_, panels_);
  strip_panels_ = std::min(strip_panels_, panel_block_);
  if (streams_ && panel_block_ < panels_) {
    panel_block_ = std::max<int64_t>(1, panel_block_ / stream * stream);
  }

  if (packs(rows_side_)) row_floats_ = row_block_ * depth;
  if (packs(columns_side_)) column_floats_ = panel_block_ * width_ * deepest;
  sum_floats_ = row_chunk_ * panel_block_ * width_;
  if (one_block) {
    sum_floats_ = finishes_ ? 0 : round_up(strip_rows_, tile_rows_) * strip_panels_ * width_;
  }
  if (lines_.pixels > 0) {
    border_floats_ = (lines_.rows + 1) * lines_.row_floats;
  } else if (rows_side_.source == Source::indexed) {
    border_floats_ = (one_block ? strip_rows_ : row_chunk_) * deepest;
  }
  if (rows_side_.source == Source::direct || rows_side_.source == Source::indexed) {
    pointers_ = (one_block ? strip_rows_ : row_chunk_) * most_pieces + kMostAhead * kMostTileRows;
  }
  if (transposed_) turned_floats_ = round_up(strip_rows_, tile_rows_) * strip_panels_ * width_;
  for (const Side* side : {&rows_side_, &columns_side_}) {
    if (side->prologue == nullptr) continue;
    prologue_bytes_ = std::max(prologue_bytes_, side->prologue->scratch_bytes());
  }
}

}  // namespace onnx_fusion::cpu
