#include <algorithm>
#include <cmath>

#include "cpu/contract_kernels.h"
#include "cpu/contract_pooled.h"
#include "cpu/contract_winograd.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kLineFloats = 6144;  // split together
constexpr double kMostLanes = 1.6;     // that a maximum takes
constexpr int64_t kMostTaps = 7;       // down
constexpr int64_t kMany = 16;          // channels, for which Winograd's filtering is faster
constexpr double kInput = 2, kOutput = 1.5;  // vector operations of a plane
constexpr double kGain = 0.95;               // of direct convolution's time

}  // namespace

double PooledLinesPlan::cost(const PooledStages& stages, bool strict) {
  const int64_t taps = stages.down.taps, along = stages.along.taps;
  const bool many = std::min(stages.channels, stages.filters) >= kMany;
  const bool straight = stages.pool.column_step == 1 || stages.pool.filter_step == 1;
  if (many && !strict) return kNever;
  if ((along != 3 && along != 5) || taps > kMostTaps || !straight) return kNever;
  PooledLinesPlan plan;
  plan.choose_sizes(stages, strict);
  const auto real = [](int64_t number) { return static_cast<double>(number); };
  const double lanes = real(plan.lanes_) / real(stages.pool.columns);  // that a maximum takes
  if (lanes > kMostLanes) return kNever;
  return plan.operations_ * lanes / real(plan.kernels_->lanes);
}

// Two lines of outputs take F(2, taps) if that saves more products than it adds.
void PooledLinesPlan::choose_sizes(const PooledStages& stages, bool strict) {
  const int64_t taps = stages.down.taps, columns = stages.pool.columns;
  kernels_ = &pooled_line_kernels(columns);
  const int64_t lanes = kernels_->lanes, whole = round_up(columns, lanes), rest = kernels_->rest;
  lanes_ = whole - ((columns - 1) % lanes < rest ? lanes - rest : 0);
  const auto real = [](int64_t number) { return static_cast<double>(number); };
  const double filters = real(stages.filters), each = real(stages.channels * stages.along.taps);
  const double planes = 2 * real(taps + 1);
  const double direct = filters * 4 * real(taps) * each;
  operations_ = planes * (filters * (each + kOutput) + real(stages.channels) * kInput);
  planes_ = !strict && (taps == 3 || taps == 5) && operations_ < direct * kGain &&
            std::isfinite(stages.fill);
  if (!planes_) operations_ = direct;
  const bool folds = kernels_->folded_filters > 0;
  const int64_t most = !planes_ ? kernels_->filters
                       : folds  ? kernels_->folded_filters
                                : kernels_->plane_filters;
  row_ = !planes_ ? kernels_->row : folds ? kernels_->folded_row : kernels_->plane_row;
  groups_ = (stages.filters + most - 1) / most;
  pixels_ = 2 * columns + stages.along.taps - 1;
  used_ = round_up(columns + stages.along.taps / 2, lanes);
  half_ = round_up(whole + stages.along.taps / 2 + 1, 16);
  const int64_t line = 2 * half_ * stages.channels;
  band_ = std::clamp<int64_t>((kLineFloats / line - taps + 1) / 2, 1, stages.pool.rows);
}

std::unique_ptr<PooledLinesPlan> PooledLinesPlan::make(PooledStages stages, bool strict) {
  std::unique_ptr<PooledLinesPlan> plan(new PooledLinesPlan);
  plan->choose_sizes(stages, strict);
  plan->stages_ = std::move(stages);
  return plan->pack() ? std::move(plan) : nullptr;
}

// Groups of filters, each [channel][tap down][tap along][filter], or [plane][channel] in planes.
bool PooledLinesPlan::pack() {
  const Linear& at = *stages_.weights_at;
  const WindowSide &down = stages_.down, &along = stages_.along;
  const auto step = [&](int letter) { return letter < 0 ? 0 : at.coef[letter]; };
  const int64_t lines = planes_ ? down.taps + 1 : down.taps, channels = stages_.channels;
  ContentHash key = hash_constant(stages_.weights);
  const int64_t layout[] = {groups_,
                            stages_.filters,
                            channels,
                            lines,
                            down.taps,
                            along.taps,
                            at.base,
                            step(down.tap),
                            step(along.tap),
                            step(stages_.channel),
                            step(stages_.filter)};
  key.add("pooled lines", 12);
  key.add(layout, sizeof layout);
  const std::vector<double> matrix =
      planes_ ? filter_matrix(static_cast<int>(lines), static_cast<int>(down.taps))
              : std::vector<double>();
  const float* data = static_cast<const float*>(stages_.weights.data) + at.base;
  const auto weight = [&](int64_t line, const float* from) {
    if (!planes_) return from[line * step(down.tap)];
    double sum = 0;
    for (int64_t r = 0; r < down.taps; ++r) {
      sum += matrix[static_cast<size_t>(line * down.taps + r)] * from[r * step(down.tap)];
    }
    return static_cast<float>(sum);
  };
  const int64_t each = channels * lines;
  const size_t floats = static_cast<size_t>(stages_.filters * each * along.taps);
  weights_ = share_weights(key, floats, [&](float* out) {
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t first = stages_.filters * group / groups_;
      const int64_t last = stages_.filters * (group + 1) / groups_;
      for (int64_t i = 0; i < each; ++i) {
        const int64_t line = planes_ ? i / channels : i % lines;
        const int64_t channel = planes_ ? i % channels : i / lines;
        for (int64_t s = 0; s < along.taps; ++s) {
          const float* from = data + channel * step(stages_.channel) + s * step(along.tap);
          for (int64_t f = first; f < last; ++f) {
            *out++ = weight(line, from + f * step(stages_.filter));
          }
        }
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
  const int64_t reach = taps + 1, each = channels * (planes_ ? reach : taps) * stages_.along.taps;
  const int64_t planes = planes_ ? channels * reach * 2 * half_ : 0;
  const double work = static_cast<double>(stages_.images * pool.rows * stages_.filters * each) *
                      static_cast<double>(4 * lanes_) / static_cast<double>(kernels_->lanes);
  const int64_t tasks = task_count(*context.parallel, work * 0.3);
  const int64_t turned = pool.column_step == 1 ? 0 : round_up(stages_.filters * lanes_, 16);
  const float* x = reinterpret_cast<const float*>(context.tensors[stages_.input]);

  parallel_ranges(
      *context.parallel, stages_.images * bands, tasks, [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(static_cast<size_t>(most + planes + filters + turned) *
                              sizeof(float));
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        float* const lines = reinterpret_cast<float*>(scratch.data());
        float* const plane = lines + most;
        float* const bias = plane + planes;
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
          for (int64_t row = row0; row < row1; ++row) {
            line.channel = (2 * (row1 - row0) + taps - 1) * line.line;
            line.lines = lines + 2 * (row - row0) * line.line;
            if (planes_) {
              kernels_->planes(line, used_, plane);
              line.channel = reach * line.line;
              line.lines = plane;
            }
            for (int64_t group = 0; group < groups_; ++group) {
              const int64_t first = stages_.filters * group / groups_;
              const int64_t last = stages_.filters * (group + 1) / groups_;
              line.weights = weights_->data() + first * each;
              line.bias = bias + first;
              line.out = (turned > 0 ? rows : out + row * pool.row_step) + first * line.filter_step;
              row_(line, static_cast<int>(last - first));
            }
            if (turned == 0) continue;
            gemm_kernels().transpose(rows, lanes_, stages_.filters, pool.columns,
                                     out + row * pool.row_step, pool.column_step);
          }
        }
      });
}

}  // namespace onnx_fusion::cpu
