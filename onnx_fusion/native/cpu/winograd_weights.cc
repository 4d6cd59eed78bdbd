// Weights of Winograd's convolution, transformed in double and rounded once.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/contract_winograd.h"

namespace onnx_fusion::cpu {

namespace {

// Of outputs two inputs apart: infinity and the points for the outer taps, the middle one.
std::vector<double> apart_matrix() {
  std::vector<double> rows = {0, 0, 1};
  for (const double p : kApartPoints) {
    double distance = 1;
    for (const double q : kApartPoints) distance *= p == q ? 1.0 : p - q;
    rows.insert(rows.end(), {1 / distance, 0, p / distance});
  }
  rows.insert(rows.end(), {0, 1, 0});
  return rows;
}

}  // namespace

// Rows of G: (1, p, p * p, ...) over the product of p's distances to the other finite points;
// infinity last. The signs go with the input transform of isa/winograd_lines.h.
std::vector<double> filter_matrix(int reach, int taps) {
  if (reach == 4) return {1, 0, 0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0, 0, 1};
  if (reach == 9) return apart_matrix();
  std::vector<double> points;
  for (const double p : reach == 6 ? std::vector<double>{std::sqrt(0.5), std::sqrt(2.0)}
                                   : std::vector<double>{0.5, 1, 2}) {
    points.insert(points.end(), {p, -p});
  }
  std::vector<double> rows(static_cast<size_t>(taps));
  rows[0] = 1;
  for (const double p : points) {
    double distance = p;
    for (const double q : points) distance *= p == q ? 1.0 : p - q;
    double power = 1;
    for (int t = 0; t < taps; ++t, power *= p) rows.push_back(power / distance);
  }
  rows.resize(rows.size() + static_cast<size_t>(taps));
  rows.back() = 1;
  return rows;
}

namespace {

// Planes often lie a power of two apart, so that their lines meet in the same sets of the caches:
// so many channels' are written at once.
constexpr int64_t kHeld = 8;

}  // namespace

void transform_filters(const WinogradFilters& f, WinogradShape shape, int64_t width, float* out) {
  const WinogradSize size = winograd_size(shape);
  const int wide = size.taps(), lines = size.reach_lines == 1 ? 1 : wide, planes = size.weights();
  const std::vector<double> along = filter_matrix(size.reach_pixels, wide);
  const std::vector<double> down = filter_matrix(size.reach_lines, wide);
  std::vector<double> taps(static_cast<size_t>(wide * lines * width));
  std::vector<float> block(static_cast<size_t>(planes * kHeld * width));
  const WinogradKernels& kernels = winograd_kernels(f.filters);
  const int64_t parts = f.down_parts * f.along_parts, depth = f.frames * parts * f.channels;
  for (int64_t first = 0; first < f.filters; first += width) {
    const int64_t count = std::min(width, f.filters - first);
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t part = k / f.channels % parts;
      for (int t = 0; t < wide * lines; ++t) {
        const int64_t line = part / f.along_parts * wide + t / wide;
        const int64_t pixel = part % f.along_parts * wide + t % wide;
        const bool inside = line < f.down_taps && pixel < f.along_taps;
        const int64_t at = first * f.filter_step + k % f.channels * f.channel_step +
                           k / f.channels / parts * f.frame_step + line * f.down_step +
                           pixel * f.along_step;
        const float* from = f.data + (inside ? at : 0);
        const int64_t some = inside ? count : 0;
        double* to = taps.data() + t * width;
        for (int64_t o = 0; o < some; ++o) to[o] = static_cast<double>(from[o * f.filter_step]);
        std::fill(to + some, to + width, 0.0);
      }
      const int64_t held = k % kHeld;
      kernels.taps(shape, {down.data(), along.data(), taps.data(), wide, width,
                           block.data() + held * width, kHeld * width});
      if (held + 1 < kHeld && k + 1 < depth) continue;
      for (int plane = 0; plane < planes; ++plane) {
        std::memcpy(out + (plane * depth + k - held) * width, block.data() + plane * kHeld * width,
                    static_cast<size_t>((held + 1) * width) * sizeof(float));
      }
    }
    out += planes * depth * width;
  }
}

}  // namespace onnx_fusion::cpu
