#include "cpu/contract_window.h"

#include <algorithm>
#include <cstring>

#include "cpu/contract_axes.h"
#include "cpu/parallel.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostTaps = 128;
constexpr int64_t kStripFloats = 2048;

void pack_weights(const float* data, const OperandTables& tables, int64_t padded, float* out) {
  const int64_t channels = static_cast<int64_t>(tables.batch.size());
  for (int64_t inner : tables.inner) {
    for (int64_t c = 0; c < channels; ++c) out[c] = data[tables.batch[c] + inner];
    std::fill(out + channels, out + padded, 0.0f);
    out += padded;
  }
}

}  // namespace

std::unique_ptr<WindowPlan> WindowPlan::make(const BoundProgram& bound, size_t stage,
                                             const TensorView* constants, size_t count) {
  const BoundStage& s = bound.stages[stage];
  const DotLetters letters = dot_letters(s);
  for (int i = 0; i < 2; ++i) {
    const DotOperand& x = letters.operands[i];
    const DotOperand& w = letters.operands[1 - i];
    if (axis_extent(s, w.own) != 1 || x.map == nullptr || w.map == nullptr || w.map->guarded)
      continue;
    if (is_constant(x, constants, count)) continue;
    std::unique_ptr<WindowPlan> plan(new WindowPlan);
    plan->stage_index_ = stage;
    plan->channel_ = letters.batch;
    plan->pixel_ = x.own;
    plan->tap_ = letters.k;
    plan->channels_ = axis_extent(s, plan->channel_);
    plan->pixels_ = axis_extent(s, plan->pixel_);
    plan->taps_ = axis_extent(s, plan->tap_);
    if (plan->taps_ > kMostTaps || plan->channels_ < 2) continue;
    sort_axis(&plan->channel_, *letters.store);
    sort_axis(&plan->pixel_, *letters.store);
    sort_axis(&plan->tap_, x.map->address);
    if (!build_tables(s, *x.map, x.fill, plan->channel_, plan->pixel_, plan->tap_, &plan->x_) ||
        !build_tables(s, *w.map, 0.0f, plan->channel_, w.own, plan->tap_, &plan->w_)) {
      continue;
    }
    plan->input_ = x.tensor;
    plan->weight_ = w.tensor;
    int letter = 0;
    const int64_t channel_step = least_step(s, plan->channel_, x.map->address, &letter);
    const int64_t pixel_step = least_step(s, plan->pixel_, x.map->address, &letter);
    const int64_t channel_store = least_step(s, plan->channel_, *letters.store, &letter);
    const int64_t pixel_store = least_step(s, plan->pixel_, *letters.store, &letter);
    const int lanes = gemm_kernels().lanes;
    plan->by_channel_ = plan->channel_.count == 1 && channel_step == 1;
    if (plan->by_channel_) {
      plan->transposed_ = channel_store != 1 && pixel_store == 1;
      plan->plan_channels(lanes, is_constant(w, constants, count) ? &constants[w.tensor] : nullptr);
      plan->epilogue_ =
          plan->transposed_
              ? std::make_unique<Epilogue>(bound, stage, plan->channel_, plan->pixel_)
              : std::make_unique<Epilogue>(bound, stage, plan->pixel_, plan->channel_);
      return plan;
    }
    if (pixel_step != 1 && pixel_step != 2) continue;
    plan->step_ = static_cast<int>(pixel_step);
    plan->transposed_ = pixel_store != 1 && channel_store == 1;
    plan->plan_rows(lanes);
    plan->epilogue_ = plan->transposed_
                          ? std::make_unique<Epilogue>(bound, stage, plan->pixel_, plan->channel_)
                          : std::make_unique<Epilogue>(bound, stage, plan->channel_, plan->pixel_);
    return plan;
  }
  return nullptr;
}

void WindowPlan::plan_rows(int lanes) {
  const std::vector<int64_t>& outer = x_.outer;
  strips_.push_back(0);
  int64_t strip_begin = 0;
  for (int64_t at = 0; at < pixels_;) {
    int64_t end = at + 1;
    while (end < pixels_ && end < at + lanes && outer[end] - outer[end - 1] == step_) ++end;
    if (end - strip_begin > kStripFloats) {
      strips_.push_back(static_cast<int64_t>(vectors_.size()));
      strip_begin = at;
    }
    bool whole = end - at == lanes;
    for (int64_t t = 0; t < taps_; ++t) {
      uint32_t mask = 0;
      for (int64_t i = at; i < end; ++i) mask |= (is_inside(x_, i, t) ? 1u : 0u) << (i - at);
      whole = whole && mask == (1u << lanes) - 1u;
      masks_.push_back(static_cast<uint16_t>(mask));
    }
    vectors_.push_back({outer[at], static_cast<int32_t>(at), static_cast<int16_t>(end - at),
                        static_cast<int16_t>(whole ? 1 : 0)});
    at = end;
  }
  strips_.push_back(static_cast<int64_t>(vectors_.size()));
  strip_ =
      strips_.size() > 2 ? 1 : std::max<int64_t>(1, kStripFloats / std::max<int64_t>(pixels_, 1));
  if (transposed_) strip_ = std::max<int64_t>(strip_, 16);
  strip_ = std::min(strip_, channels_);
}

void WindowPlan::plan_channels(int lanes, const TensorView* weights) {
  padded_ = (channels_ + lanes - 1) / lanes * lanes;
  if (!x_.guards.empty()) outside_.assign(static_cast<size_t>(padded_), x_.fill);
  strip_ = std::max<int64_t>(4, kStripFloats / channels_ / 4 * 4);
  strip_ = std::min(strip_, pixels_);
  if (weights == nullptr) return;
  ContentHash key = hash_constant(*weights);
  key.add("window", 6);
  key.add(&padded_, sizeof padded_);
  key.add_values(w_.batch);
  key.add_values(w_.inner);
  packed_ = share_weights(key, static_cast<size_t>(padded_ * taps_), [&](float* out) {
    pack_weights(static_cast<const float*>(weights->data), w_, padded_, out);
  });
}

void WindowPlan::run(const RunContext& context) const {
  if (by_channel_) {
    run_channels(context);
  } else {
    run_rows(context);
  }
}

// sums[row - row0][column - column0]; rows and columns are those of the kernel.
void WindowPlan::finish(const RunContext& context, const int64_t* fixed, int64_t row0, int64_t row1,
                        int64_t column0, int64_t column1, const float* sums, int64_t ld,
                        float* turned, char* scratch) const {
  if (!transposed_) {
    epilogue_->run(context, fixed, row0, row1, column0, column1, sums, ld, scratch);
    return;
  }
  gemm_kernels().transpose(sums, ld, row1 - row0, column1 - column0, turned, row1 - row0);
  epilogue_->run(context, fixed, column0, column1, row0, row1, turned, row1 - row0, scratch);
}

void WindowPlan::run_rows(const RunContext& context) const {
  const WindowKernels& kernels = window_kernels();
  const int64_t lanes = gemm_kernels().lanes;
  const int64_t strips = static_cast<int64_t>(strips_.size()) - 1;
  const int64_t groups = (channels_ + strip_ - 1) / strip_;
  const float* x = reinterpret_cast<const float*>(context.tensors[input_]);
  const float* w = reinterpret_cast<const float*>(context.tensors[weight_]);
  const int64_t width = std::min(pixels_, kStripFloats);
  const int64_t sums = strip_ * width + lanes;
  bool in_place = true;
  for (int64_t t = 0; t < taps_; ++t) in_place = in_place && w_.inner[t] == t;
  const double work = static_cast<double>(channels_) * static_cast<double>(vectors_.size()) *
                      static_cast<double>(taps_ + 8);
  const int64_t tasks = task_count(*context.parallel, work * 0.5);

  parallel_ranges(
      *context.parallel, groups * strips, tasks, [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(static_cast<size_t>(2 * sums + 64) * sizeof(float) +
                              epilogue_->scratch_bytes());
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        float* out = reinterpret_cast<float*>(scratch.data());
        float* turned = out + (sums + 15) / 16 * 16;
        char* rest = reinterpret_cast<char*>(turned + (sums + 15) / 16 * 16);
        const int64_t fixed[kMaxLetters] = {};
        float weights[kMostTaps];
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first = strips_[i % strips], last = strips_[i % strips + 1];
          const int64_t column0 = vectors_[first].column;
          const int64_t column1 = vectors_[last - 1].column + vectors_[last - 1].lanes;
          const int64_t channel0 = i / strips * strip_;
          const int64_t channel1 = std::min(channels_, channel0 + strip_);
          const int64_t ld = column1 - column0;
          for (int64_t c = channel0; c < channel1; ++c) {
            const float* taps = w + w_.batch[c];
            if (!in_place) {
              for (int64_t t = 0; t < taps_; ++t) weights[t] = taps[w_.inner[t]];
              taps = weights;
            }
            const WindowRow row{vectors_.data() + first,
                                last - first,
                                masks_.data() + first * taps_,
                                x_.inner.data(),
                                static_cast<int>(taps_),
                                step_,
                                x + x_.batch[c],
                                taps,
                                x_.fill};
            kernels.row(row, out + (c - channel0) * ld - column0);
          }
          finish(context, fixed, channel0, channel1, column0, column1, out, ld, turned, rest);
        }
      });
}

void WindowPlan::run_channels(const RunContext& context) const {
  const WindowKernels& kernels = window_kernels();
  const float* x = reinterpret_cast<const float*>(context.tensors[input_]) + x_.batch[0];
  const int64_t strips = (pixels_ + strip_ - 1) / strip_;
  const int64_t sums = (strip_ * channels_ + 15) / 16 * 16;
  const int64_t own = packed_ == nullptr ? padded_ * taps_ : 0;
  const double work = static_cast<double>(pixels_) * static_cast<double>(taps_ + 8) *
                      static_cast<double>(padded_ / gemm_kernels().lanes);
  const int64_t tasks = task_count(*context.parallel, work * 0.5);

  parallel_ranges(*context.parallel, strips, tasks, [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(static_cast<size_t>(2 * sums + own) * sizeof(float) +
                          epilogue_->scratch_bytes() + 64);
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    float* out = reinterpret_cast<float*>(scratch.data());
    float* turned = out + sums;
    const float* weights = packed_ == nullptr ? turned + sums : packed_->data();
    char* rest = reinterpret_cast<char*>(turned + sums + (own + 15) / 16 * 16);
    if (packed_ == nullptr) {
      pack_weights(reinterpret_cast<const float*>(context.tensors[weight_]), w_, padded_,
                   turned + sums);
    }
    const int64_t fixed[kMaxLetters] = {};
    const float* in[kMostTaps * 4];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pixel0 = i * strip_, pixel1 = std::min(pixels_, pixel0 + strip_);
      int64_t some = 0;
      for (int64_t pixel = pixel0; pixel < pixel1; pixel += some) {
        some = std::min<int64_t>(4, pixel1 - pixel);
        for (int64_t t = 0; t < taps_; ++t) {
          for (int64_t j = 0; j < some; ++j) {
            in[t * some + j] = is_inside(x_, pixel + j, t) ? x + x_.outer[pixel + j] + x_.inner[t]
                                                           : outside_.data();
          }
        }
        kernels.channels(in, static_cast<int>(taps_), static_cast<int>(some), weights, padded_,
                         channels_, out + (pixel - pixel0) * channels_, channels_);
      }
      finish(context, fixed, pixel0, pixel1, 0, channels_, out, channels_, turned, rest);
    }
  });
}

}  // namespace onnx_fusion::cpu
