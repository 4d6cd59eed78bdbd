// How a DepthPlan runs: tasks take bands of rows of a block of channels, and rows are cut into
// tiles.
#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu/contract_axes.h"
#include "cpu/contract_depth.h"
#include "cpu/contract_kernels.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLateFloats = 4096;  // that are activated after they were stored

// Those of `count` positions `apart`, from `first` on, that are inside.
void find_inside(const WindowSide& side, int64_t first, int64_t apart, int64_t count,
                 int32_t* begin, int32_t* end) {
  int64_t low = 0, high = count;
  while (low < high && !side.inside(first + low * apart, 1, 0)) ++low;
  while (high > low && !side.inside(first + (high - 1) * apart, 1, 0)) --high;
  *begin = static_cast<int32_t>(low);
  *end = static_cast<int32_t>(high);
}

template <int64_t Times>
void repeat(const float* from, int64_t count, float* to) {
  for (int64_t c = 0; c < count; ++c) {
    for (int64_t k = 0; k < Times; ++k) to[c * Times + k] = from[c];
  }
}

// Each of `count` channels, so many times.
void repeat(const float* from, int64_t count, int64_t times, float* to) {
  if (times == 2) return repeat<2>(from, count, to);
  if (times == 4) return repeat<4>(from, count, to);
  for (int64_t c = 0; c < count; ++c) to = std::fill_n(to, times, from[c]);
}

float* tensor(const RunContext& context, int index) {
  return reinterpret_cast<float*>(context.tensors[index]);
}

}  // namespace

// A block of channels of the image at one position of the outer letters.
struct DepthPlan::Block {
  const float* x;  // position (base, base) of the dims
  int64_t row, column;  // from a position to the next
  bool copied;          // with a border
  const float* weights;
  const float* bias;
  int64_t channel, channels;
  int64_t outer;
  float* out;  // fast: of output (0, 0)
};

struct DepthPlan::Room {
  float* sums;
  float* turned;
  float* copy;
  char* scratch;
};

// What of the tile counts, which lies at a border; false if it cannot be left out.
bool DepthPlan::find_edges(int64_t y, int64_t x, int64_t columns, DepthTile* tile) const {
  find_inside(rows_, y, rows_.reach, tile->last, &tile->first, &tile->last);
  int32_t left = 0, right = 0;
  find_inside(columns_, x, column_, columns, &left, &right);
  tile->left = left;
  tile->right = right;
  return skips_ && tile->left < columns_.taps && columns - tile->right < columns_.taps;
}

DepthTile DepthPlan::place_tile(const Block& block, DepthShape shape, int64_t row, int64_t pixel,
                                const Target& target) const {
  DepthTile tile{};
  tile.base = block.x + rows_.step * row * block.row + columns_.step * pixel * block.column;
  tile.line = rows_.reach * block.row;
  tile.column = column_ * block.column;
  tile.tiles = 1;
  tile.apart = columns_.step * spread_ * pixels_of(shape) * block.column;
  tile.weights = block.weights;
  tile.weight_step = weight_step_;
  tile.channels = block.channels;
  tile.bias = block.bias;
  tile.scale = finish_.scale;
  tile.shift = finish_.shift;
  tile.low = finish_.low;
  tile.high = finish_.high;
  tile.end = finish_.end;
  tile.scaled = finish_.scaled;
  std::copy(finish_.after, finish_.after + 2, tile.after);
  tile.out = target.out + row * target.row + pixel * target.pixel;
  tile.out_row = target.row;
  tile.out_pixel = target.pixel * spread_;
  return tile;
}

// As many tiles of a row as `most`; returns how many.
int64_t DepthPlan::run_any(const Block& block, DepthShape shape, int64_t row, int64_t pixel,
                           int64_t most, const Target& target) const {
  const int64_t x = columns_.step * pixel + columns_.base;
  DepthTile tile = place_tile(block, shape, row, pixel, target);
  tile.tiles = most;
  tile.lines = static_cast<int32_t>(rows_.taps);
  tile.taps = static_cast<int32_t>(columns_.taps);
  tile.last = tile.lines;
  tile.step = any_step_;
  tile.reach = any_reach_;
  tile.moved = any_step_ * pixels_of(shape);
  tile.fill = outside_.empty() ? 0.0f : outside_[0];
  tile.skips = skips_ || block.copied || !(rows_.guarded || columns_.guarded);
  tile.left = std::numeric_limits<int64_t>::min() / 2;
  tile.right = std::numeric_limits<int64_t>::max() / 2;
  if (!block.copied) {
    find_inside(rows_, rows_.step * row + rows_.base, rows_.reach, tile.lines, &tile.first,
                &tile.last);
    if (columns_.guarded) {
      tile.left = ceil_div(-x, column_);
      tile.right = ceil_div(columns_.extent - x, column_);
    }
  }
  const int64_t count = pixels_of(shape);
  kernels_->any[step_][count == 1 ? 0 : count == 4 ? 1 : 2](tile);
  if (finish_.late) finish_late(tile, shape);
  return tile.tiles;
}

// One tile, or as many of `most` beside it as are inside; returns how many.
int64_t DepthPlan::run_tile(const Block& block, DepthShape shape, int64_t row, int64_t pixel,
                            int64_t most, const Target& target) const {
  if (any_) return run_any(block, shape, row, pixel, most, target);
  const int64_t pixels = pixels_of(shape);
  const int64_t step = columns_.taps == 1 ? 1 : step_;
  const int64_t columns = step * (pixels - 1) + columns_.taps;
  const int64_t lines = step * (rows_of(shape) - 1) + rows_.taps;
  const int64_t y = rows_.step * row + rows_.base;
  const int64_t x = columns_.step * pixel + columns_.base;
  const int64_t next = columns_.step * spread_ * pixels;  // tile
  DepthTile tile = place_tile(block, shape, row, pixel, target);
  tile.last = static_cast<int32_t>(lines);

  const float* in[kMostDepthTaps];
  const bool inside =
      block.copied || (rows_.inside(y, lines, rows_.reach) && columns_.inside(x, columns, column_));
  if (inside) {
    while (tile.tiles < most &&
           (block.copied || columns_.inside(x + next * tile.tiles, columns, column_))) {
      ++tile.tiles;
    }
  } else if (shape == kOne) {
    const float** to = in;
    for (int64_t i = 0; i < lines; ++i) {
      const bool line_inside = rows_.inside(y + i * rows_.reach, 1, 0);
      for (int64_t j = 0; j < columns; ++j) {
        *to++ = line_inside && columns_.inside(x + j * column_, 1, 0)
                    ? tile.base + i * tile.line + j * tile.column
                    : outside_.data();
      }
    }
    tile.in = in;
  } else if (!find_edges(y, x, columns, &tile)) {
    for (int64_t r = 0; r < rows_of(shape); ++r) {
      for (int64_t i = 0; i < pixels; ++i) {
        run_tile(block, kOne, row + r, pixel + spread_ * i, 1, target);
      }
    }
    return 1;
  }
  kernels_->run[columns_.taps / 2][step - 1][shape][inside ? 0 : 1](tile);
  if (finish_.late) finish_late(tile, shape);
  return tile.tiles;
}

void DepthPlan::finish_late(const DepthTile& tile, DepthShape shape) const {
  const Pass silu = cpu::kernels().silu;
  const int64_t pixels = pixels_of(shape) * tile.tiles;
  const int64_t joined = tile.out_pixel == tile.channels ? pixels : 1;  // pixels of a call
  for (int64_t r = 0; r < rows_of(shape); ++r) {
    for (int64_t i = 0; i < pixels; i += joined) {
      float* at = tile.out + r * tile.out_row + i * tile.out_pixel;
      silu(at, at, nullptr, nullptr, tile.channels * joined);
    }
  }
}

// Outputs [begin, end) of one row, or of two. The last tile overlaps the one before.
void DepthPlan::run_tiles(const Block& block, DepthShape shape, int64_t row, int64_t begin,
                          int64_t end, const Target& target) const {
  const int64_t rows = rows_of(shape);
  for (int64_t phase = 0; phase < spread_ && begin + phase < end; ++phase) {
    const int64_t count = ceil_div(end - begin - phase, spread_);
    const int64_t pixels = count < pixels_of(shape) ? 1 : pixels_of(shape);
    const DepthShape used = pixels == pixels_of(shape) ? shape : kOne;
    // What is activated late should still be near.
    const int64_t most =
        finish_.late ? std::max<int64_t>(1, kLateFloats / (pixels * block.channels)) : count;
    for (int64_t r = row; r < row + (used == shape ? 1 : rows); ++r) {
      for (int64_t i = 0; i < count;) {
        const int64_t at = std::min(i, count - pixels);
        const int64_t some = std::clamp<int64_t>((count - at) / pixels, 1, most);
        i += pixels * run_tile(block, used, r, begin + phase + spread_ * at, some, target);
      }
    }
  }
}

// Rows [row0, row1) of outputs.
void DepthPlan::run_rows(const RunContext& context, const Block& block, int64_t row0, int64_t row1,
                         const Room& room) const {
  const int64_t height = rows_of(shape_), channels = block.channels;
  for (int64_t row = row0; row < row1; row += height) {
    const int64_t rows = std::min(height, row1 - row);
    const DepthShape shape = rows == height ? shape_ : shape_ == kTwoBySeven ? kSeven : kFour;
    if (fast_) {
      const auto step = [&](const WindowSide& side) {
        return side.letter < 0 ? 0 : finish_.store->coef[side.letter];
      };
      run_tiles(block, shape, row, 0, columns_.outputs, {block.out, step(rows_), step(columns_)});
      continue;
    }
    for (int64_t q = 0; q < columns_.outputs; q += strip_) {
      const int64_t q1 = std::min(columns_.outputs, q + strip_), line = (q1 - q) * channels;
      run_tiles(block, shape, row, q, q1, {room.sums - row * line - q * channels, line, channels});
      const bool whole = q1 - q == columns_.outputs;  // rows, which lie together
      for (int64_t r = 0; r < rows; r += whole ? rows : 1) {
        const int64_t at = (block.outer * rows_.outputs + row + r) * columns_.outputs;
        const int64_t end = at + (whole ? rows * columns_.outputs : q1);
        finish_strip(context, block, at + q, end, room.sums + r * line, room);
      }
    }
  }
}

// The positions that output rows [row0, row1) see, with what is outside, pixels close together and
// channels repeated.
void DepthPlan::copy_rows(int64_t row0, int64_t row1, float* out, Block* block) const {
  const int64_t lines = rows_.step * (row1 - row0 - 1) + rows_.reach * (rows_.taps - 1) + 1;
  const size_t bytes = static_cast<size_t>(block->channels) * sizeof(float);
  float* to = out;
  for (int64_t i = 0; i < lines; ++i) {
    const int64_t y = rows_.step * row0 + i;
    const bool line_inside = rows_.inside(y + rows_.base, 1, 0);
    for (int64_t x = 0; x < copied_columns_; ++x, to += block->channels) {
      const bool inside = line_inside && columns_.inside(x + columns_.base, 1, 0);
      const float* from = block->x + y * block->row + x * block->column;
      if (inside && repeat_ > 1)
        repeat(from, block->channels / repeat_, repeat_, to);
      else
        std::memcpy(to, inside ? from : outside_.data(), bytes);
    }
  }
  block->row = copied_columns_ * block->channels;
  block->column = block->channels;
  block->x = out - rows_.step * row0 * block->row;
  block->copied = true;
}

void DepthPlan::run(const RunContext& context) const {
  const BoundStage& stage = context.bound->stages[stage_index_];
  const int64_t unit = copy_floats_ > 0 ? band_ : 1, bands = ceil_div(rows_.outputs, unit);
  const int64_t taps = rows_.taps * columns_.taps;
  const double work = static_cast<double>(outers_ * rows_.outputs * columns_.outputs) *
                      static_cast<double>(channels_) * static_cast<double>(taps + 4);
  const int64_t tasks =
      task_count(*context.parallel, work / static_cast<double>(kernels_->lanes) * 0.5);
  // Where few rows are not enough for all, their channels are shared out, a vector or more each.
  const int64_t vectors = channels_ / kernels_->lanes;
  int64_t blocks = ceil_div(channels_, block_);
  const bool shares = fast_ && copy_floats_ == 0 && vectors > 1 && outers_ * bands < tasks;
  if (shares) blocks = std::min(vectors, tasks);
  const auto channel_at = [&](int64_t k) {
    if (k == blocks) return channels_;
    return shares ? vectors * k / blocks * kernels_->lanes : std::min(channels_, k * block_);
  };
  const int64_t sums = fast_ ? 0 : (rows_of(shape_) * strip_ * block_ + 15) / 16 * 16;
  const int64_t own = packed_ == nullptr ? packed_floats() : 0;
  const size_t bytes = static_cast<size_t>(2 * sums + own + copy_floats_) * sizeof(float) +
                       (fast_ ? 0 : epilogue_->scratch_bytes()) + 64;

  parallel_ranges(
      *context.parallel, outers_ * blocks * bands, tasks, [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(bytes);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        float* weights = reinterpret_cast<float*>(scratch.data());
        float* const rest = weights + own + 2 * sums + copy_floats_;
        const Room room{weights + own, weights + own + sums, weights + own + 2 * sums,
                        reinterpret_cast<char*>(rest)};
        if (packed_ == nullptr) {
          pack_weights(reinterpret_cast<const float*>(context.tensors[weight_]), weights);
        }
        int64_t letters[kMaxLetters] = {};
        for (int64_t i = begin, some = 1; i < end; i += some) {
          Block block{};
          some = copy_floats_ > 0 ? 1 : std::min(bands - i % bands, end - i);
          block.outer = i / (blocks * bands);
          block.channel = channel_at(i / bands % blocks);
          block.channels = channel_at(i / bands % blocks + 1) - block.channel;
          block.weights = (packed_ == nullptr ? weights : packed_->data()) + block.channel * taps;
          block.bias = block.channel + (finish_.bias < 0
                                            ? zero_bias_.data()
                                            : tensor(context, finish_.bias) + finish_.bias_base);
          locate(stage, outer_, block.outer, letters);
          block.x = tensor(context, input_) + address_->base + block.channel / repeat_;
          if (fast_) block.out = tensor(context, finish_.out) + finish_.store->base + block.channel;
          for (int k = 0; k < outer_.count; ++k) {
            const int letter = outer_.letters[k];
            block.x += address_->coef[letter] * letters[letter];
            if (fast_) block.out += finish_.store->coef[letter] * letters[letter];
          }
          block.row = rows_.stride;
          block.column = columns_.stride;
          const int64_t row = i % bands * unit, row1 = std::min(rows_.outputs, row + some * unit);
          if (copy_floats_ > 0) copy_rows(row, row1, room.copy, &block);
          run_rows(context, block, row, row1, room);
        }
      });
}

void DepthPlan::finish_strip(const RunContext& context, const Block& block, int64_t pixel0,
                             int64_t pixel1, const float* sums, const Room& room) const {
  const int64_t fixed[kMaxLetters] = {}, count = pixel1 - pixel0;
  const int64_t channel0 = block.channel, channel1 = channel0 + block.channels;
  if (!transposed_) {
    return epilogue_->run(context, fixed, pixel0, pixel1, channel0, channel1, sums, block.channels,
                          room.scratch);
  }
  gemm_kernels().transpose(sums, block.channels, count, block.channels, room.turned, count);
  epilogue_->run(context, fixed, channel0, channel1, pixel0, pixel1, room.turned, count,
                 room.scratch);
}

}  // namespace onnx_fusion::cpu
