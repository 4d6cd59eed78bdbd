// A convolution with constant weights whose window is 3 or 5 wide, or so in two dims, with step 1,
// or 3 x 3 with step 2, by Winograd's minimal filtering:
//
//   block of tiles -> planes [tile][plane][k]       input transform
//   for every panel of filters:
//     for every plane: [tile][k] x [k][filter]      from constant, transformed weights, which at
//                                                   step 2 some planes share
//     [tile][plane][filter] -> outputs, through the epilogue
//
// k are the channels, for every tap of a further dim of the window (the frames of 3x3x3) or of a
// dim whose taps have another step, and for every part of a longer window: 7 taps are three parts
// of 3, each a window of 3 of its own with another begin (taps behind the window's end weigh
// nothing). A block's transformed inputs stay in the second-level cache; a panel's products are
// soon used up. A NaN or infinity of the input reaches every output of the tiles that read it.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/contract_axes.h"
#include "cpu/finish.h"
#include "cpu/weights.h"
#include "cpu/winograd_kernels.h"

namespace onnx_fusion::cpu {

class WinogradPlan final : public StagePlan {
 public:
  // Null if the stage is not of this kind, if the program is strict, or if direct convolution is
  // expected to be faster.
  static std::unique_ptr<WinogradPlan> make(const BoundProgram& bound, size_t stage,
                                            const TensorView* constants, size_t count);
  void run(const RunContext& context) const override;
  bool may_be_cut() const override { return false; }

 private:
  // A dim of the tiles: output letter, with coefficient 1 or 2, and tap letter, with 1.
  struct Side {
    int letter = -1;    // -1: one output
    int64_t apart = 1;  // inputs from one output to the next
    int tap = -1;
    int64_t taps = 1, outputs = 1;
    int64_t parts = 1;              // of the window, `taps` wide each
    int64_t all_taps = 1;           // of the window
    int64_t inputs = 1, first = 0;  // extent, and the index of output 0's tap 0
    int64_t step = 0;               // in memory
    const Linear* form = nullptr;   // the index
    int64_t tiles = 1;

    bool is_like(const Side& other) const { return taps == other.taps && apart == other.apart; }
  };
  // A further dim of the window; its output letter counts as one of images.
  struct Frames {
    int tap = -1;
    int64_t taps = 1;
    int64_t inputs = 1;  // extent
    Linear form;         // the index
  };
  // How a run is split: blocks of tiles, and parts of the filters.
  struct Split {
    int64_t blocks, parts, tasks;
  };
  // Neighbouring tiles of one row of tiles.
  struct Segment {
    int64_t image, row, column, count;
    int64_t tile;   // of the block
    int64_t pixel;  // of the block's outputs
  };
  // Outputs of a block that the epilogue takes together.
  struct Patch {
    int64_t image, line0, line1, pixel0, pixel1, begin;
  };
  struct Buffers {
    float *planes, *products, *sums, *turned, *strip;
    WinogradRow* rows;
    int32_t *begins, *ends;
    char* rest;
  };
  static constexpr int64_t kStripTiles = 8, kStripChannels = 16;

  WinogradPlan() = default;
  // With `cut`, windows longer than 5 are cut to parts.
  static std::unique_ptr<WinogradPlan> make(const BoundProgram& bound, size_t stage,
                                            const TensorView* constants, size_t count, bool cut);
  bool find_sides(const BoundStage& stage, const DotOperand& x, const Axis& k, bool cut);
  bool choose_shape(int lanes);
  bool pack(const TensorView& weights, const BoundMap& map);

  Split choose_split(const Parallel& parallel) const;
  // Outputs of a tile that are not cut.
  static int left_of(const Side& side, int64_t tile, int outputs);
  Segment segment_at(int64_t tile, int64_t end) const;
  template <typename Body>
  void each_segment(int64_t first, int64_t last, const Body& body) const;
  void list_rows(int64_t first, int64_t last, const Buffers& to) const;
  int64_t image_offset(const Linear& address, int64_t image, int64_t* fixed) const;
  void read_block(const RunContext& context, int64_t first, int64_t last, const Buffers& to) const;
  // Of a frame and a part of the window down; `exists`: the frame is inside the input.
  void read_tiles(const float* x, bool exists, const Segment& segment, int64_t down,
                  float* out) const;
  void read_rows(const float* x, bool exists, const Segment& segment, int64_t down, float* strip,
                 float* out) const;
  int64_t strip_columns(int64_t tiles) const;
  // Parts of the window along that read_rows makes of one strip.
  int64_t strip_parts() const {
    return channels_ <= kStripChannels || channels_ % kStripChannels == 0 ? along_.parts : 1;
  }
  void write_tiles(WinogradOutput tiles, int64_t pixels) const;
  void write_direct(const RunContext& context, int64_t first, int64_t last, int64_t panel,
                    const Buffers& from) const;
  void write_sums(int64_t first, int64_t last, int64_t column, const Buffers& from) const;
  void finish_sums(const RunContext& context, int64_t first, int64_t last, int64_t filter0,
                   int64_t filter1, const Buffers& from) const;
  void finish_patch(const RunContext& context, const Patch& patch, int64_t filter0, int64_t filter1,
                    const Buffers& from) const;

  const BoundStage* stage_ = nullptr;
  const WinogradKernels* kernels_ = nullptr;
  Axis image_, pixel_, filter_;
  Side down_, along_;  // down_.tap is -1 in a window of one line
  Frames frames_;
  int channel_letter_ = -1;
  int64_t images_ = 1, channels_ = 1, filters_ = 1, tiles_ = 1;
  int64_t channel_step_ = 1;  // 1, or pixels are contiguous
  int input_ = -1;            // tensor
  const Linear* address_ = nullptr;
  float fill_ = 0;
  bool transposed_ = false;  // stores are contiguous along pixels

  WinogradShape shape_ = WinogradShape::square4;
  WinogradSize size_ = winograd_size(WinogradShape::square4);
  int64_t planes_ = 36;
  int64_t depth_ = 1;  // of the products
  double cost_ = 0;    // expected, in products
  int64_t plane_ = 0;  // floats of a plane of one tile
  int vectors_ = 1;
  int64_t width_ = 1, panels_ = 1;
  int64_t most_tiles_ = 1;    // of a block, about
  int64_t unit_ = 1;          // blocks are multiples of it
  int64_t group_panels_ = 1;  // carried through the epilogue at once
  std::vector<float> outside_;
  std::shared_ptr<const PackedWeights> weights_;
  std::unique_ptr<Epilogue> epilogue_;
  std::unique_ptr<Finish> finish_;  // at once from the output transform, if not null
};

// Where the weight of a filter, channel and tap lies; a side without taps has none.
struct WinogradFilters {
  const float* data;
  int64_t filters, channels, frames;
  int64_t filter_step, channel_step, frame_step, down_step, along_step;
  int64_t down_parts, along_parts, down_taps, along_taps;  // taps: of the whole window
};
// What makes planes of taps: [plane][tap], as many planes as a tile reaches over inputs (4, 6 or
// 8), or, of 9, 6: those that share weights have one row.
std::vector<double> filter_matrix(int reach, int taps);
// To [panel][plane][frame][part down][part along][channel][filter of the panel].
void transform_filters(const WinogradFilters& filters, WinogradShape shape, int64_t width,
                       float* out);

template <typename Body>
void WinogradPlan::each_segment(int64_t first, int64_t last, const Body& body) const {
  int64_t pixel = 0;
  for (int64_t tile = first; tile < last;) {
    Segment segment = segment_at(tile, last);
    segment.tile = tile - first;
    segment.pixel = pixel;
    body(segment);
    const int64_t lines = std::min<int64_t>(size_.lines, down_.outputs - segment.row * size_.lines);
    const int64_t begin = segment.column * size_.pixels;
    pixel += lines * (std::min(along_.outputs, begin + segment.count * size_.pixels) - begin);
    tile += segment.count;
  }
}

}  // namespace onnx_fusion::cpu
