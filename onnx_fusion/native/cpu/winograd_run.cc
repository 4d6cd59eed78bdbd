// One run of a Winograd plan.
#include <algorithm>
#include <numeric>

#include "cpu/contract_kernels.h"
#include "cpu/contract_winograd.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"
#include "cpu/winograd_kernels.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int kMostPlanes = 81;

}  // namespace

// Blocks and parts so that every thread has as much to do: few tiles are not split further, but
// their filters are, and each part transforms the input again.
WinogradPlan::Split WinogradPlan::choose_split(const Parallel& parallel) const {
  const int64_t units = tiles_ / unit_;
  const int64_t fewest =
      std::min(units, std::max<int64_t>(1, (tiles_ + most_tiles_ * 2 / 3) / most_tiles_));
  const double depth = static_cast<double>(depth_), wide = static_cast<double>(panels_ * width_);
  const double lanes = static_cast<double>(gemm_kernels().lanes);
  const double work = static_cast<double>(tiles_ * planes_) * depth * wide / lanes;
  const int64_t threads = task_count(parallel, work * 0.2);
  Split best{fewest, 1, 1};
  if (threads == 1) return best;
  double least = 0;
  for (int64_t parts = 1; parts <= threads; ++parts) {
    if (threads % parts != 0) continue;
    if (parts > panels_) break;
    const int64_t blocks = std::min(round_up(fewest, threads / parts), units);
    const double tiles = static_cast<double>((units + blocks - 1) / blocks * unit_);
    const double filters = static_cast<double>((panels_ + parts - 1) / parts * width_);
    // Vector operations per plane; a block reads its weights once, at the price of some 8 tiles.
    const double block = tiles * depth * 4 + tiles * filters * 4 + (tiles + 8) * depth * filters;
    const double cost = block * static_cast<double>((blocks * parts + threads - 1) / threads);
    if (parts > 1 && cost >= least) continue;
    least = cost;
    best = {blocks, parts, threads};
  }
  return best;
}

int WinogradPlan::left_of(const Side& side, int64_t tile, int outputs) {
  return static_cast<int>(std::min<int64_t>(outputs, side.outputs - tile * outputs));
}

WinogradPlan::Segment WinogradPlan::segment_at(int64_t tile, int64_t end) const {
  const int64_t row = tile / along_.tiles, column = tile % along_.tiles;
  return {row / down_.tiles,
          row % down_.tiles,
          column,
          std::min(end - tile, along_.tiles - column),
          0,
          0};
}

// The planes of tiles that the same weights multiply.
void WinogradPlan::list_rows(int64_t first, int64_t last, const Buffers& to) const {
  const int wide = size_.weight_pixels(), tile = size_.planes();
  const auto planes_down = [&](int weights, int left) {
    return planes_of_weights(weights, size_.lines, left, size_.apart);
  };
  const auto planes_along = [&](int weights, int left) {
    return planes_of_weights(weights, size_.pixels, left, size_.apart);
  };
  int64_t begin = 0;
  for (int weights = 0; weights < size_.weights(); ++weights) {
    to.begins[weights] = to.ends[weights] = static_cast<int32_t>(begin);
    begin += (last - first) * planes_down(weights / wide, size_.lines).count() *
             planes_along(weights % wide, size_.pixels).count();
  }
  each_segment(first, last, [&](const Segment& segment) {
    const int count = static_cast<int>(segment.count);
    const int lines = left_of(down_, segment.row, size_.lines);
    const int pixels = left_of(along_, segment.column + count - 1, size_.pixels);  // last tile's
    const int32_t begin = static_cast<int32_t>(segment.tile) * tile;
    const int32_t in = static_cast<int32_t>(plane_), out = static_cast<int32_t>(width_);
    for (int weights = 0; weights < size_.weights(); ++weights) {
      const WinogradRange down = planes_down(weights / wide, lines);
      const WinogradRange along = planes_along(weights % wide, size_.pixels);
      const int end = planes_along(weights % wide, pixels).end;
      WinogradRow* row = to.rows + to.ends[weights];
      for (int i = down.begin; i < down.end; ++i) {
        for (int j = along.begin; j < along.end; ++j) {
          const int tiles = j < end ? count : count - 1;
          int32_t at = begin + i * size_.reach_pixels + j;
          for (int t = 0; t < tiles; ++t, at += tile) *row++ = {at * in, at * out};
        }
      }
      to.ends[weights] = static_cast<int32_t>(row - to.rows);
    }
  });
}

int64_t WinogradPlan::image_offset(const Linear& address, int64_t image, int64_t* fixed) const {
  locate(*stage_, image_, image, fixed);
  int64_t at = address.base;
  for (int k = 0; k < image_.count; ++k) {
    at += address.coef[image_.letters[k]] * fixed[image_.letters[k]];
  }
  return at;
}

void WinogradPlan::run(const RunContext& context) const {
  const Split split = choose_split(*context.parallel);
  const int64_t units = tiles_ / unit_;
  const int64_t most = (units + split.blocks - 1) / split.blocks * unit_;
  const int64_t pixels = most * size_.lines * size_.pixels, group = group_panels_ * width_;
  const int64_t planes = round_up(most * planes_ * plane_, 16);
  const int64_t products = round_up(most * planes_ * width_, 16);
  const int64_t sums = finish_ != nullptr ? 0 : round_up(pixels * group, 16);
  const int64_t strip =
      channel_step_ == 1 ? 0 : size_.reach_lines * strip_columns(kStripTiles) * kStripChannels;
  const int64_t rows = round_up(most * planes_ * 2, 16);
  const int64_t floats = planes + products + (transposed_ ? 2 : 1) * sums + strip + rows +
                         2 * round_up(size_.weights(), 16);

  parallel_ranges(
      *context.parallel, split.blocks * split.parts, split.tasks,
      [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(static_cast<size_t>(floats + 16) * sizeof(float) +
                              epilogue_->scratch_bytes() + 64);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        Buffers buffers;
        buffers.planes = reinterpret_cast<float*>(scratch.data());
        buffers.products = buffers.planes + planes;
        buffers.sums = buffers.products + products;
        buffers.turned = buffers.sums + sums;
        buffers.strip = buffers.sums + (transposed_ ? 2 : 1) * sums;
        buffers.rows = reinterpret_cast<WinogradRow*>(buffers.strip + strip);
        buffers.begins = reinterpret_cast<int32_t*>(buffers.rows) + rows;
        buffers.ends = buffers.begins + round_up(size_.weights(), 16);
        buffers.rest = reinterpret_cast<char*>(buffers.ends + round_up(size_.weights(), 16));
        int64_t held = -1, listed = 0;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t block = i / split.parts, part = i % split.parts;
          const int64_t first = units * block / split.blocks * unit_;
          const int64_t last = units * (block + 1) / split.blocks * unit_;
          if (block != held) {
            // At step 1 they depend on nothing but the number of tiles.
            if (size_.apart > 1 || last - first != listed) list_rows(first, last, buffers);
            listed = last - first;
            read_block(context, first, last, buffers);
            held = block;
          }
          const int64_t panel0 = panels_ * part / split.parts;
          const int64_t panel1 = panels_ * (part + 1) / split.parts;
          for (int64_t panel = panel0; panel < panel1;) {
            const int64_t group_end = std::min(panel1, panel + group_panels_);
            const int64_t filter0 = panel * width_,
                          filter1 = std::min(filters_, group_end * width_);
            for (; panel < group_end; ++panel) {
              kernels_->product({buffers.planes,
                                 weights_->data() + panel * size_.weights() * depth_ * width_,
                                 buffers.rows, buffers.begins, buffers.ends, size_.weights(),
                                 depth_, vectors_, buffers.products});
              if (finish_ != nullptr) {
                write_direct(context, first, last, panel, buffers);
              } else {
                write_sums(first, last, panel * width_ - filter0, buffers);
              }
            }
            if (finish_ == nullptr) finish_sums(context, first, last, filter0, filter1, buffers);
          }
        }
      });
}

void WinogradPlan::read_block(const RunContext& context, int64_t first, int64_t last,
                              const Buffers& to) const {
  const float* x = reinterpret_cast<const float*>(context.tensors[input_]);
  int64_t fixed[kMaxLetters] = {};
  each_segment(first, last, [&](const Segment& segment) {
    const float* image = x + image_offset(*address_, segment.image, fixed);
    float* out = to.planes + segment.tile * planes_ * plane_;
    int64_t index = frames_.form.base;
    for (int k = 0; k < image_.count; ++k) {
      index += frames_.form.coef[image_.letters[k]] * fixed[image_.letters[k]];
    }
    for (int64_t frame = 0; frame < frames_.taps; ++frame) {
      const bool exists = index >= 0 && index < frames_.inputs;
      for (int64_t part = 0; part < down_.parts; ++part) {
        if (channel_step_ == 1) {
          read_tiles(image, exists, segment, part * down_.taps, out);
        } else {
          read_rows(image, exists, segment, part * down_.taps, to.strip, out);
        }
        out += along_.parts * channels_;
      }
      if (frames_.tap < 0) break;
      image += address_->coef[frames_.tap];
      index += frames_.form.coef[frames_.tap];
    }
  });
}

void WinogradPlan::read_tiles(const float* x, bool exists, const Segment& segment, int64_t down,
                              float* out) const {
  const int64_t line0 = segment.row * size_.lines * size_.apart + down, top = line0 + down_.first;
  const int lines = left_of(down_, segment.row, size_.lines);
  const bool whole_lines = exists && top >= 0 && top + size_.reach_lines <= down_.inputs;
  const float* places[kMostPlanes];
  for (int64_t j = segment.column; j < segment.column + segment.count;
       ++j, out += planes_ * plane_) {
    for (int64_t part = 0; part < along_.parts; ++part) {
      const int64_t pixel0 = j * size_.pixels * size_.apart + part * along_.taps;
      const int64_t left = pixel0 + along_.first;
      const float* base = x + line0 * down_.step + pixel0 * along_.step;
      const int pixels = left_of(along_, j, size_.pixels);
      WinogradInput tile{base,    down_.step, along_.step,
                         nullptr, channels_,  out + part * channels_,
                         plane_,  lines,      pixels};
      if (!whole_lines || left < 0 || left + size_.reach_pixels > along_.inputs) {
        const float** place = places;
        for (int64_t i = 0; i < size_.reach_lines; ++i) {
          const bool read = exists && top + i >= 0 && top + i < down_.inputs;
          const float* pixel = base + i * down_.step;
          for (int64_t at = left; at < left + size_.reach_pixels; ++at, pixel += along_.step) {
            *place++ = read && at >= 0 && at < along_.inputs ? pixel : outside_.data();
          }
        }
        tile.places = places;
      }
      kernels_->input(shape_, tile);
    }
  }
}

// Pixels of a line that so many tiles read, for all parts that read_rows makes together.
int64_t WinogradPlan::strip_columns(int64_t tiles) const {
  const int64_t reach = (tiles * size_.pixels - 1) * size_.apart + size_.taps();
  return reach + (strip_parts() - 1) * along_.taps;
}

// Input whose pixels are contiguous: a strip of a few tiles and channels is turned first.
void WinogradPlan::read_rows(const float* x, bool exists, const Segment& segment, int64_t down,
                             float* strip, float* out) const {
  const int64_t line0 = segment.row * size_.lines * size_.apart + down, top = line0 + down_.first;
  const int lines = left_of(down_, segment.row, size_.lines);
  const int64_t together = strip_parts();
  for (int64_t part0 = 0; part0 < along_.parts; part0 += together) {
    for (int64_t j = 0; j < segment.count; j += kStripTiles) {
      const int64_t tiles = std::min(kStripTiles, segment.count - j);
      const int64_t pixel0 =
          (segment.column + j) * size_.pixels * size_.apart + part0 * along_.taps;
      const int64_t columns = strip_columns(tiles);
      const int64_t left = pixel0 + along_.first;
      const int64_t inside0 = std::min(columns, std::max<int64_t>(0, -left));
      const int64_t inside1 = std::max(inside0, std::min(columns, along_.inputs - left));
      for (int64_t c = 0; c < channels_; c += kStripChannels) {
        const int64_t some = std::min(kStripChannels, channels_ - c);
        for (int64_t i = 0; i < size_.reach_lines; ++i) {
          float* line = strip + i * columns * kStripChannels;
          const bool read = exists && top + i >= 0 && top + i < down_.inputs;
          const int64_t begin = read ? inside0 : columns, end = read ? inside1 : columns;
          std::fill(line, line + begin * kStripChannels, fill_);
          std::fill(line + end * kStripChannels, line + columns * kStripChannels, fill_);
          if (begin == end) continue;
          const float* from = x + (line0 + i) * down_.step + pixel0 + begin + c * channel_step_;
          gemm_kernels().transpose(from, channel_step_, some, end - begin,
                                   line + begin * kStripChannels, kStripChannels);
        }
        for (int64_t part = 0; part < together; ++part) {
          for (int64_t t = 0; t < tiles; ++t) {
            const int64_t pixel = t * size_.pixels * size_.apart + part * along_.taps;
            float* to = out + (j + t) * planes_ * plane_ + (part0 + part) * channels_ + c;
            kernels_->input(shape_, {strip + pixel * kStripChannels, columns * kStripChannels,
                                     kStripChannels, nullptr, kStripChannels, to, plane_, lines,
                                     left_of(along_, segment.column + j + t, size_.pixels)});
          }
        }
      }
    }
  }
}

}  // namespace onnx_fusion::cpu
