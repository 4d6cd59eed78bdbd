// One run of a GroupPlan.
#include <algorithm>
#include <cstring>

#include "cpu/contract_axes.h"
#include "cpu/contract_group.h"
#include "cpu/contract_kernels.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {

// A line of the image, with what is outside, if the image has it. `x` is position (base, base) of
// the dims.
void GroupPlan::copy_line(const float* x, int64_t y, int64_t block, const Room& room) const {
  if (!rows_.inside(y + rows_.base, 1, 0)) return;
  float* line = room.lines + y % ring_ * line_;
  int64_t begin = 0, end = width_;
  if (columns_.guarded) {
    begin = std::clamp<int64_t>(-columns_.base, 0, width_);
    end = std::clamp<int64_t>(columns_.extent - columns_.base, begin, width_);
  }
  const float* from = x + y * rows_.stride + begin * columns_.stride;
  if (planes_) return copy_planes(from, block, begin, end, line);
  const int64_t channels = std::min(block_in_, (channels_ - block * block_out_) / group_ * summed_);
  from += block * block_in_;
  std::fill(line, line + begin * block_in_, 0.0f);
  std::fill(line + end * block_in_, line + width_ * block_in_, 0.0f);
  if (channels == block_in_) {
    kernels_->copy(from, columns_.stride, end - begin, block_in_, line + begin * block_in_);
    return;
  }
  for (float* to = line + begin * block_in_; begin < end; ++begin, from += columns_.stride) {
    to = std::fill_n(std::copy(from, from + channels, to), block_in_ - channels, 0.0f);
  }
}

// Columns begin to end of a line, the first one's pixel at `from`.
void GroupPlan::copy_planes(const float* from, int64_t block, int64_t begin, int64_t end,
                            float* line) const {
  const int64_t lanes = kernels_->lanes, column = kind_ == kSpread ? lanes : 1;
  const int64_t made = std::min(block_out_, channels_ - block * block_out_);
  const int64_t planes =
      kind_ == kSpread ? ceil_div(made, lanes) * summed_ : made / group_ * summed_;
  for (int64_t p = 0; p < planes; ++p) {
    float* plane = line + p * plane_;
    std::fill(plane, plane + begin * column, 0.0f);
    std::fill(plane + end * column, plane + width_ * column, 0.0f);
  }
  if (begin == end) return;
  line += begin * column;
  if (kind_ != kSpread) {
    gemm_kernels().transpose(from + block * block_in_, columns_.stride, end - begin, planes, line,
                             plane_);
    return;
  }
  for (int64_t p = 0; p < planes; p += summed_, line += summed_ * plane_) {
    kernels_->spread(spreads_[(block * block_in_ + p) / summed_], from, columns_.stride,
                     end - begin, summed_, line, plane_);
  }
}

// A row of outputs, from its first one's place on; lines before *ready are in the room.
void GroupPlan::run_row(const float* x, int64_t row, int64_t block, const Room& room,
                        int64_t* ready, const FinishRows& to) const {
  const int64_t made = std::min(block_out_, channels_ - block * block_out_);
  const int64_t top = rows_.step * row, last = top + rows_.reach * (rows_.taps - 1);
  for (int64_t y = std::max(*ready, top); y <= last; ++y) copy_line(x, y, block, room);
  *ready = std::max(*ready, last + 1);
  const float* lines[kMostTapRows];
  int64_t first = 0, count = 0;
  for (int64_t r = 0; r < rows_.taps; ++r) {
    const int64_t y = top + rows_.reach * r;
    if (!rows_.inside(y + rows_.base, 1, 0)) {
      first += count == 0 ? 1 : 0;
      continue;
    }
    lines[count++] = room.lines + y % ring_ * line_;
  }
  const int* tiles = kernels_->tiles[kind_];
  const int64_t outputs = columns_.outputs;
  const int64_t column = kind_ == kSpread ? kernels_->lanes : planes_ ? 1 : block_in_;
  for (int64_t u = 0; u < made; u += unit_) {
    const float* at[kMostTapRows];
    GroupTile tile{};
    tile.lines = at;
    tile.pixel = block_in_;
    tile.count = static_cast<int>(count);
    tile.depth = summed_;
    tile.plane = plane_;
    tile.taps = columns_.taps;
    tile.reach = columns_.reach;
    tile.weights =
        weights_->data() + (block * block_out_ + u) / unit_ * unit_floats_ + first * tap_row_;
    tile.out_pixel = to.out_ld;
    tile.bias = to.column_bias == nullptr ? nullptr : to.column_bias + u;
    tile.shift = to.shift;
    tile.clamps = to.clamps;
    tile.low = to.low;
    tile.high = to.high;
    const int64_t channel =
        (kind_ == kSpread ? u / unit_ : u / group_) * summed_ * (planes_ ? plane_ : 1);
    for (int64_t q = 0; q < outputs; q += tiles[tile_]) {
      const int size = q + tiles[tile_] <= outputs ? tile_ : rest_;
      const int64_t begin = std::min(q, outputs - tiles[size]);
      for (int64_t r = 0; r < count; ++r) {
        at[r] = lines[r] + begin * columns_.step * column + channel;
      }
      tile.out = to.out + begin * to.out_ld + u;
      kernels_->run[kind_][columns_.step - 1][size](tile);
    }
  }
}

void GroupPlan::run(const RunContext& context) const {
  const BoundStage& stage = context.bound->stages[stage_index_];
  const double work = static_cast<double>(outers_ * rows_.outputs * columns_.outputs) *
                      static_cast<double>(blocks_ * block_out_ / kernels_->lanes) *
                      static_cast<double>(rows_.taps * columns_.taps * summed_);
  const int64_t tasks = task_count(*context.parallel, work * 0.3);
  // Where blocks are not enough for all, their rows are shared out.
  int64_t bands = 1;
  if (outers_ * blocks_ < 2 * tasks) bands = std::min(rows_.outputs, ceil_div(2 * tasks, blocks_));
  const int64_t lines = ring_ * line_, row = columns_.outputs * block_out_;
  const size_t bytes =
      static_cast<size_t>(lines + strip_ * row) * sizeof(float) + epilogue_->scratch_bytes() + 128;
  parallel_ranges(
      *context.parallel, outers_ * blocks_ * bands, tasks,
      [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(bytes);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        Room room{};
        room.lines = reinterpret_cast<float*>(scratch.data());
        room.sums = room.lines + (lines + 15) / 16 * 16;
        room.scratch = reinterpret_cast<char*>(room.sums + (strip_ * row + 15) / 16 * 16);
        int64_t letters[kMaxLetters] = {};
        const int64_t fixed[kMaxLetters] = {};
        for (int64_t i = begin; i < end; ++i) {
          const int64_t outer = i / (blocks_ * bands), block = i / bands % blocks_,
                        band = i % bands;
          locate(stage, outer_, outer, letters);
          const float* x = reinterpret_cast<const float*>(context.tensors[input_]) + address_->base;
          for (int k = 0; k < outer_.count; ++k) {
            x += address_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
          }
          const int64_t channel = block * block_out_;
          const int64_t channel1 = std::min(channels_, channel + block_out_);
          const int64_t row0 = rows_.outputs * band / bands,
                        row1 = rows_.outputs * (band + 1) / bands;
          int64_t ready = 0;
          for (int64_t p = row0; p < row1; p += strip_) {
            const int64_t p1 = std::min(row1, p + strip_);
            const int64_t first = (outer * rows_.outputs + p) * columns_.outputs;
            const int64_t last = first + (p1 - p) * columns_.outputs;
            FinishRows to{};
            if (finishes_) {
              to = epilogue_->finish()->rows(context, fixed, first, last, channel, channel1,
                                             nullptr, 0);
            } else {
              to.out = room.sums;
              to.out_ld = block_out_;
            }
            for (int64_t q = p; q < p1; ++q, to.out += columns_.outputs * to.out_ld) {
              run_row(x, q, block, room, &ready, to);
            }
            if (finishes_) continue;
            epilogue_->run(context, fixed, first, last, channel, channel1, room.sums, block_out_,
                           room.scratch);
          }
        }
      });
}

}  // namespace onnx_fusion::cpu
