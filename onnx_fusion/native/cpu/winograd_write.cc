// How a Winograd plan's products become outputs.
#include <algorithm>

#include "cpu/contract_kernels.h"
#include "cpu/contract_winograd.h"
#include "cpu/winograd_kernels.h"

namespace onnx_fusion::cpu {

// The tiles of `pixels` outputs in a line: whole ones, and one that the border cuts.
void WinogradPlan::write_tiles(WinogradOutput tiles, int64_t pixels) const {
  while (pixels > 0) {
    tiles.pixels = static_cast<int>(std::min<int64_t>(size_.pixels, pixels));
    tiles.tiles = static_cast<int>(std::max<int64_t>(1, pixels / size_.pixels));
    kernels_->output(shape_, tiles);
    const int64_t written = tiles.tiles * size_.pixels;
    pixels -= written;
    tiles.in += tiles.tiles * planes_ * width_;
    tiles.out += written * tiles.pixel;
    if (tiles.residual != nullptr) tiles.residual += written * tiles.residual_pixel;
  }
}

void WinogradPlan::write_direct(const RunContext& context, int64_t first, int64_t last,
                                int64_t panel, const Buffers& from) const {
  int64_t fixed[kMaxLetters] = {};
  const int64_t filter = panel * width_, filters = std::min(width_, filters_ - filter);
  each_segment(first, last, [&](const Segment& segment) {
    locate(*stage_, image_, segment.image, fixed);
    const int64_t line = segment.row * size_.lines, begin = segment.column * size_.pixels;
    const int64_t end = std::min(along_.outputs, begin + segment.count * size_.pixels);
    const int64_t lines = std::min<int64_t>(size_.lines, down_.outputs - line);
    const int64_t at = line * along_.outputs + begin;
    FinishRows f =
        finish_->rows(context, fixed, at, at + end - begin, filter, filter + filters, nullptr, 0);
    const float* residual = f.late ? nullptr : f.residual;
    WinogradOutput tiles{from.products + segment.tile * planes_ * width_,
                         vectors_,
                         filters,
                         0,
                         static_cast<int>(lines),
                         0,
                         f.out,
                         along_.outputs * f.out_ld,
                         f.out_ld,
                         residual,
                         along_.outputs * f.residual_ld,
                         f.residual_ld,
                         f.column_bias,
                         f.scale,
                         f.low,
                         f.high,
                         f.activation == Activation::gate ? f.p : nullptr,
                         f.shift,
                         f.scaled && f.activation <= Activation::gate ? f.after : nullptr};
    write_tiles(tiles, end - begin);
    for (int64_t i = 0; i < lines && f.again(); ++i) {
      finish_passes().activate(f);
      f.out += along_.outputs * f.out_ld;
      if (f.late) f.residual += along_.outputs * f.residual_ld;
    }
  });
}

void WinogradPlan::write_sums(int64_t first, int64_t last, int64_t column,
                              const Buffers& from) const {
  const int64_t ld = group_panels_ * width_;
  const float infinity = __builtin_inff();
  each_segment(first, last, [&](const Segment& segment) {
    const int64_t line = segment.row * size_.lines, begin = segment.column * size_.pixels;
    const int64_t end = std::min(along_.outputs, begin + segment.count * size_.pixels);
    const int lines = static_cast<int>(std::min<int64_t>(size_.lines, down_.outputs - line));
    write_tiles({from.products + segment.tile * planes_ * width_, vectors_, width_, 0, lines, 0,
                 from.sums + segment.pixel * ld + column, (end - begin) * ld, ld, nullptr, 0, 0,
                 nullptr, 1.0f, -infinity, infinity, nullptr, 0.0f, nullptr},
                end - begin);
  });
}

// Rows of tiles that are whole are taken together.
void WinogradPlan::finish_sums(const RunContext& context, int64_t first, int64_t last,
                               int64_t filter0, int64_t filter1, const Buffers& from) const {
  Patch patch{};
  each_segment(first, last, [&](const Segment& segment) {
    const int64_t line0 = segment.row * size_.lines, pixel0 = segment.column * size_.pixels;
    const int64_t line1 = std::min(down_.outputs, line0 + size_.lines);
    const int64_t pixel1 = std::min(along_.outputs, pixel0 + segment.count * size_.pixels);
    const bool whole = pixel0 == 0 && pixel1 == along_.outputs;
    if (whole && patch.line1 == line0 && line0 > 0 && patch.image == segment.image &&
        patch.pixel0 == 0 && patch.pixel1 == along_.outputs) {
      patch.line1 = line1;
      return;
    }
    finish_patch(context, patch, filter0, filter1, from);
    patch = {segment.image, line0, line1, pixel0, pixel1, segment.pixel};
  });
  finish_patch(context, patch, filter0, filter1, from);
}

void WinogradPlan::finish_patch(const RunContext& context, const Patch& patch, int64_t filter0,
                                int64_t filter1, const Buffers& from) const {
  const int64_t lines = patch.line1 - patch.line0, wide = patch.pixel1 - patch.pixel0;
  if (lines == 0) return;
  const int64_t ld = group_panels_ * width_, pixels = lines * wide;
  const float* sums = from.sums + patch.begin * ld;
  if (transposed_) {
    gemm_kernels().transpose(sums, ld, pixels, filter1 - filter0, from.turned, pixels);
  }
  int64_t fixed[kMaxLetters] = {};
  locate(*stage_, image_, patch.image, fixed);
  const bool whole = wide == along_.outputs;
  const int64_t step = whole ? pixels : wide;
  for (int64_t at = 0; at < pixels; at += step) {
    const int64_t pixel0 = (patch.line0 + at / wide) * along_.outputs + patch.pixel0;
    if (transposed_) {
      epilogue_->run(context, fixed, filter0, filter1, pixel0, pixel0 + step, from.turned + at,
                     pixels, from.rest);
    } else {
      epilogue_->run(context, fixed, pixel0, pixel0 + step, filter0, filter1, sums + at * ld, ld,
                     from.rest);
    }
  }
}

}  // namespace onnx_fusion::cpu
