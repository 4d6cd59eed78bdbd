#include <algorithm>
#include <cmath>

#include "cpu/contract_pooled.h"
#include "cpu/contract_winograd.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kTaps = 5, kReach = 6, kPlanes = kReach * kReach;
constexpr int64_t kLineFloats = 4096;  // turned together
constexpr double kGain = 0.85;         // of direct convolution's time
constexpr double kProduct = 1.2, kOutput = 80, kInput = 150;  // vector operations

}  // namespace

double PooledTilesPlan::cost(const PooledStages& stages, bool strict) {
  const bool square = stages.down.taps == kTaps && stages.along.taps == kTaps;
  if (strict || !square || stages.channel < 0 || !std::isfinite(stages.fill)) return kNever;
  PooledTilesPlan plan;
  plan.choose_sizes(stages);
  const auto real = [](int64_t number) { return static_cast<double>(number); };
  const int64_t lanes = plan.kernels_->lanes;
  const double channels = real(stages.channels), vectors = real(plan.panels_ * plan.vectors_);
  const double input = real(plan.room_) / real(std::min<int64_t>(lanes, 8)) * kInput;
  const double all = vectors * (kPlanes * channels * kProduct + kOutput) + input;
  const double direct = 4 * kTaps * kTaps * channels * real(stages.filters) / real(lanes);
  return all < direct * kGain ? all : kNever;
}

void PooledTilesPlan::choose_sizes(const PooledStages& stages) {
  const PoolAfter& pool = stages.pool;
  kernels_ = &pooled_tile_kernels(stages.filters);
  const int64_t lanes = kernels_->lanes, vectors = round_up(stages.filters, lanes) / lanes;
  vectors_ = static_cast<int>(std::min<int64_t>(vectors, kernels_->max_vectors));
  width_ = vectors_ * lanes;
  panels_ = round_up(stages.filters, width_) / width_;
  room_ = stages.channels <= 8 ? 8 : 16;
  const int64_t most = kernels_->tiles[vectors_];
  pieces_ = (pool.columns + most - 1) / most;
  pixels_ = 2 * pool.columns + kReach - 2;
  band_ = std::clamp<int64_t>((kLineFloats / (pixels_ * room_) - (kReach - 2)) / 2, 1, pool.rows);
}

std::unique_ptr<PooledTilesPlan> PooledTilesPlan::make(PooledStages stages) {
  std::unique_ptr<PooledTilesPlan> plan(new PooledTilesPlan);
  plan->choose_sizes(stages);
  plan->stages_ = std::move(stages);
  return plan->pack() ? std::move(plan) : nullptr;
}

bool PooledTilesPlan::pack() {
  const Linear& at = *stages_.weights_at;
  const WinogradFilters filters{static_cast<const float*>(stages_.weights.data) + at.base,
                                stages_.filters,
                                stages_.channels,
                                1,
                                at.coef[stages_.filter],
                                at.coef[stages_.channel],
                                0,
                                at.coef[stages_.down.tap],
                                at.coef[stages_.along.tap],
                                1,
                                1,
                                kTaps,
                                kTaps};
  ContentHash key = hash_constant(stages_.weights);
  const int64_t layout[] = {width_,
                            at.base,
                            stages_.filters,
                            stages_.channels,
                            filters.filter_step,
                            filters.channel_step,
                            filters.down_step,
                            filters.along_step};
  key.add("pooled tiles", 12);
  key.add(layout, sizeof layout);
  const size_t floats = static_cast<size_t>(panels_ * width_ * kPlanes * stages_.channels);
  weights_ = share_weights(key, floats, [&](float* out) {
    transform_filters(filters, WinogradShape::square2_of_5, width_, out);
  });
  return weights_ != nullptr;
}

// The lines under rows [row0, row1) of tiles, with what is outside filled in.
void PooledTilesPlan::read_lines(const float* x, int64_t row0, int64_t row1,
                                 const Buffers& to) const {
  const WindowSide& down = stages_.down;
  int64_t inside0, inside1;
  stages_.inside(pixels_, &inside0, &inside1);
  float* out = to.lines;
  for (int64_t line = 2 * row0; line < 2 * row1 + kReach - 2; ++line, out += pixels_ * room_) {
    const int64_t at = line + down.base;
    const bool exists = at >= 0 && at < down.extent && inside0 < inside1;
    const int64_t begin = exists ? inside0 : pixels_, end = exists ? inside1 : pixels_;
    std::fill(out, out + begin * room_, stages_.fill);
    std::fill(out + end * room_, out + pixels_ * room_, stages_.fill);
    if (!exists) continue;
    kernels_->turn_in(x + line * down.stride + begin, stages_.channel_step, stages_.channels,
                      end - begin, room_, out + begin * room_);
  }
}

// `row` counts from the first line that was read.
void PooledTilesPlan::run_row(int64_t row, float* pooled, const FinishRows& limits,
                              const Buffers& buffers) const {
  const int64_t line = pixels_ * room_;
  const float* lines = buffers.lines + 2 * row * line;
  const int64_t wide = panels_ * width_;
  for (int64_t piece = 0; piece < pieces_; ++piece) {
    const int64_t first = stages_.pool.columns * piece / pieces_;
    const int tiles = static_cast<int>(stages_.pool.columns * (piece + 1) / pieces_ - first);
    kernels_->input(
        {lines + 2 * first * room_, line, tiles, room_, buffers.columns, buffers.planes});
    for (int64_t panel = 0; panel < panels_; ++panel) {
      kernels_->product({buffers.planes, tiles, room_, stages_.channels,
                         weights_->data() + panel * kPlanes * stages_.channels * width_, vectors_,
                         buffers.products});
      const int64_t filter = panel * width_;
      kernels_->output({buffers.products, tiles, vectors_, buffers.bias + filter, limits.low,
                        limits.high, pooled + first * wide + filter, wide});
    }
  }
}

// Rows [row0, row1) of maxima; `out` is where row 0 would be.
void PooledTilesPlan::write(const Buffers& from, int64_t row0, int64_t row1, float* out) const {
  const PoolAfter& pool = stages_.pool;
  const int64_t wide = panels_ * width_;
  const bool together = pool.row_step == pool.columns * pool.column_step;
  const int64_t rows = together ? row1 - row0 : 1;
  for (int64_t row = row0; row < row1; row += rows) {
    const float* pooled = from.pooled + (row - row0) * pool.columns * wide;
    float* to = out + row * pool.row_step;
    const int64_t pixels = rows * pool.columns;
    if (pool.column_step == 1) {
      kernels_->turn_out(pooled, wide, pixels, stages_.filters, to, pool.filter_step);
      continue;
    }
    for (int64_t i = 0; i < pixels; ++i) {
      for (int64_t f = 0; f < stages_.filters; ++f) {
        to[i * pool.column_step + f * pool.filter_step] = pooled[i * wide + f];
      }
    }
  }
}

void PooledTilesPlan::run(const RunContext& context) const {
  const PoolAfter& pool = stages_.pool;
  const int64_t wide = panels_ * width_;
  const int64_t lines = round_up((2 * band_ + kReach - 2) * pixels_ * room_, 16);
  const int64_t columns = kReach * (2 * kPooledTiles + kReach - 2) * room_;
  const int64_t planes = kPlanes * kPooledTiles * room_;
  const int64_t products = kPlanes * (kPooledTiles + 1) * width_;
  const int64_t pooled = round_up(band_ * pool.columns * wide, 16);
  const int64_t floats = lines + columns + planes + products + pooled + wide;
  const int64_t bands = (pool.rows + band_ - 1) / band_;
  const double work = static_cast<double>(stages_.images * pool.rows * pool.columns * kPlanes) *
                      static_cast<double>(stages_.channels * panels_ * vectors_);
  const int64_t tasks = task_count(*context.parallel, work * 0.5);
  const float* x = reinterpret_cast<const float*>(context.tensors[stages_.input]);

  parallel_ranges(
      *context.parallel, stages_.images * bands, tasks, [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(static_cast<size_t>(floats) * sizeof(float));
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        Buffers buffers;
        buffers.lines = reinterpret_cast<float*>(scratch.data());
        buffers.columns = buffers.lines + lines;
        buffers.planes = buffers.columns + columns;
        buffers.products = buffers.planes + planes;
        buffers.pooled = buffers.products + products;
        buffers.bias = buffers.pooled + pooled;
        for (int64_t i = begin; i < end; ++i) {
          const FinishRows limits = stages_.limits(context, i / bands, wide, buffers.bias);
          const int64_t row0 = i % bands * band_, row1 = std::min(pool.rows, row0 + band_);
          read_lines(x + stages_.image_at(i / bands), row0, row1, buffers);
          for (int64_t row = row0; row < row1; ++row) {
            run_row(row - row0, buffers.pooled + (row - row0) * pool.columns * wide, limits,
                    buffers);
          }
          write(buffers, row0, row1, stages_.out(context, i / bands));
        }
      });
}

}  // namespace onnx_fusion::cpu
