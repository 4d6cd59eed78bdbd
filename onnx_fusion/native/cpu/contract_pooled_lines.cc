#include <algorithm>

#include "cpu/contract_kernels.h"
#include "cpu/contract_pooled.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLineFloats = 6144;  // split together
constexpr double kLeastFull = 0.6;     // of the vectors' lanes
constexpr int64_t kMostTaps = 7;       // down
constexpr int64_t kMany = 16;          // channels, for which Winograd's filtering is faster

}  // namespace

std::unique_ptr<PooledLinesPlan> PooledLinesPlan::make(const BoundProgram& bound,
                                                       PooledStages* stages) {
  const int64_t taps = stages->along.taps;
  const bool many = std::min(stages->channels, stages->filters) >= kMany;
  if (many && !bound.program->strict) return nullptr;
  if ((taps != 3 && taps != 5) || stages->down.taps > kMostTaps) return nullptr;
  if (stages->pool.column_step != 1 && stages->pool.filter_step != 1) return nullptr;
  std::unique_ptr<PooledLinesPlan> plan(new PooledLinesPlan);
  const PoolAfter& pool = stages->pool;
  plan->kernels_ = &pooled_line_kernels(pool.columns);
  const int64_t lanes = plan->kernels_->lanes, whole = round_up(pool.columns, lanes);
  const int64_t rest = plan->kernels_->rest;
  plan->lanes_ = whole - ((pool.columns - 1) % lanes < rest ? lanes - rest : 0);
  const double full = static_cast<double>(pool.columns) / static_cast<double>(plan->lanes_);
  if (full < kLeastFull) return nullptr;
  plan->stages_ = std::move(*stages);
  plan->groups_ = (plan->stages_.filters + plan->kernels_->filters - 1) / plan->kernels_->filters;
  plan->pixels_ = 2 * pool.columns + taps - 1;
  plan->half_ = round_up(whole + taps / 2 + 1, 16);
  const int64_t line = 2 * plan->half_ * plan->stages_.channels;
  const int64_t more = plan->stages_.down.taps - 1;
  plan->band_ = std::clamp<int64_t>((kLineFloats / line - more) / 2, 1, plan->stages_.pool.rows);
  return plan->pack() ? std::move(plan) : nullptr;
}

// Groups of filters, each [channel][tap down][tap along][filter].
bool PooledLinesPlan::pack() {
  const Linear& at = *stages_.weights_at;
  const WindowSide &down = stages_.down, &along = stages_.along;
  const auto step = [&](int letter) { return letter < 0 ? 0 : at.coef[letter]; };
  ContentHash key = hash_constant(stages_.weights);
  const int64_t layout[] = {groups_,         stages_.filters,      stages_.channels,
                            down.taps,       along.taps,           at.base,
                            step(down.tap),  step(along.tap),      step(stages_.channel),
                            step(stages_.filter)};
  key.add("pooled lines", 12);
  key.add(layout, sizeof layout);
  const float* data = static_cast<const float*>(stages_.weights.data) + at.base;
  const int64_t each = stages_.channels * down.taps * along.taps;
  weights_ = share_weights(key, static_cast<size_t>(stages_.filters * each), [&](float* out) {
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t first = stages_.filters * group / groups_;
      const int64_t last = stages_.filters * (group + 1) / groups_;
      for (int64_t i = 0; i < each; ++i) {
        const int64_t from = i / along.taps / down.taps * step(stages_.channel) +
                             i / along.taps % down.taps * step(down.tap) +
                             i % along.taps * step(along.tap);
        for (int64_t f = first; f < last; ++f) *out++ = data[from + f * step(stages_.filter)];
      }
    }
  });
  return weights_ != nullptr;
}

// The lines under rows [row0, row1) of maxima, with what is outside filled in.
void PooledLinesPlan::read_lines(const float* x, int64_t row0, int64_t row1, float* to) const {
  const WindowSide& down = stages_.down;
  const int64_t count = 2 * (row1 - row0) + down.taps - 1;
  int64_t inside0, inside1;
  stages_.inside(pixels_, &inside0, &inside1);
  for (int64_t channel = 0; channel < stages_.channels; ++channel) {
    for (int64_t i = 0; i < count; ++i, to += 2 * half_) {
      const int64_t line = 2 * row0 + i, at = line + down.base;
      const bool exists = at >= 0 && at < down.extent && inside0 < inside1;
      const int64_t begin = exists ? inside0 : pixels_, end = exists ? inside1 : pixels_;
      for (int64_t p = 0; p < begin; ++p) to[p % 2 * half_ + p / 2] = stages_.fill;
      for (int64_t p = end; p < pixels_; ++p) to[p % 2 * half_ + p / 2] = stages_.fill;
      if (!exists) continue;
      const bool odd = begin % 2 != 0;
      float* const evens = to + (begin + 1) / 2;
      float* const odds = to + half_ + begin / 2;
      kernels_->split(x + channel * stages_.channel_step + line * down.stride + begin, end - begin,
                      odd ? odds : evens, odd ? evens : odds);
    }
  }
}

void PooledLinesPlan::run(const RunContext& context) const {
  const PoolAfter& pool = stages_.pool;
  const int64_t taps = stages_.down.taps, channels = stages_.channels;
  const int64_t most = channels * (2 * band_ + taps - 1) * 2 * half_;
  const int64_t filters = round_up(stages_.filters, 16);
  const int64_t bands = (pool.rows + band_ - 1) / band_;
  const int64_t each = channels * taps * stages_.along.taps;
  const double work = static_cast<double>(stages_.images * pool.rows * stages_.filters * each) *
                      static_cast<double>(4 * lanes_) /
                      static_cast<double>(kernels_->lanes);
  const int64_t tasks = task_count(*context.parallel, work * 0.3);
  const int64_t turned = pool.column_step == 1 ? 0 : round_up(stages_.filters * lanes_, 16);
  const float* x = reinterpret_cast<const float*>(context.tensors[stages_.input]);

  parallel_ranges(*context.parallel, stages_.images * bands, tasks,
                  [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(static_cast<size_t>(most + filters + turned) * sizeof(float));
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    float* const lines = reinterpret_cast<float*>(scratch.data());
    float* const bias = lines + most;
    float* const rows = bias + filters;
    // What lies behind a line is multiplied, too, though nobody wants it.
    std::fill(lines, bias, 0.0f);
    PooledLine line{};
    line.line = 2 * half_;
    line.channels = channels;
    line.down = static_cast<int>(taps);
    line.along = static_cast<int>(stages_.along.taps);
    line.columns = pool.columns;
    line.filter_step = turned > 0 ? lanes_ : pool.filter_step;
    for (int64_t i = begin; i < end; ++i) {
      const FinishRows limits = stages_.limits(context, i / bands, stages_.filters, bias);
      line.low = limits.low;
      line.high = limits.high;
      const int64_t row0 = i % bands * band_, row1 = std::min(pool.rows, row0 + band_);
      read_lines(x + stages_.image_at(i / bands), row0, row1, lines);
      float* const out = stages_.out(context, i / bands);
      line.channel = (2 * (row1 - row0) + taps - 1) * line.line;
      for (int64_t row = row0; row < row1; ++row) {
        line.lines = lines + 2 * (row - row0) * line.line;
        for (int64_t group = 0; group < groups_; ++group) {
          const int64_t first = stages_.filters * group / groups_;
          const int64_t last = stages_.filters * (group + 1) / groups_;
          line.weights = weights_->data() + first * each;
          line.bias = bias + first;
          line.out = (turned > 0 ? rows : out + row * pool.row_step) + first * line.filter_step;
          kernels_->row(line, static_cast<int>(last - first));
        }
        if (turned == 0) continue;
        gemm_kernels().transpose(rows, lanes_, stages_.filters, pool.columns,
                                 out + row * pool.row_step, pool.column_step);
      }
    }
  });
}

}  // namespace onnx_fusion::cpu
