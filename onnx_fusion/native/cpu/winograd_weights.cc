// Weights of Winograd's convolution, transformed in double and rounded once.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/contract_winograd.h"

namespace onnx_fusion::cpu {
namespace {

// Rows of G: (1, p, p * p) over the product of p's distances to the other finite points; infinity
// last. The signs go with the input transform of isa/winograd.cc.
std::vector<double> filter_matrix(int size) {
  if (size == 2) return {1, 0, 0, 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0, 0, 1};
  const double points[] = {std::sqrt(0.5), -std::sqrt(0.5), std::sqrt(2.0), -std::sqrt(2.0)};
  std::vector<double> rows = {1, 0, 0};
  for (const double p : points) {
    double distance = p;
    for (const double q : points) distance *= p == q ? 1.0 : p - q;
    for (const double x : {1.0, p, p * p}) rows.push_back(x / distance);
  }
  rows.insert(rows.end(), {0, 0, 1});
  return rows;
}

}  // namespace

void transform_filters(const WinogradFilters& f, WinogradShape shape, int64_t width, float* out) {
  const WinogradSize size = winograd_size(shape);
  const int lines = size.reach_lines == 1 ? 1 : 3, planes = size.planes();
  const std::vector<double> g = filter_matrix(size.pixels);
  std::vector<double> taps(static_cast<size_t>(9 * width));
  std::vector<double> half(static_cast<size_t>(3 * size.reach_lines * width));
  const int64_t depth = f.frames * f.channels;
  for (int64_t first = 0; first < f.filters; first += width) {
    const int64_t count = std::min(width, f.filters - first);
    for (int64_t k = 0; k < depth; ++k) {
      for (int t = 0; t < 3 * lines; ++t) {
        const float* from = f.data + first * f.filter_step + k % f.channels * f.channel_step +
                            k / f.channels * f.frame_step + t / 3 * f.down_step +
                            t % 3 * f.along_step;
        double* to = taps.data() + t * width;
        for (int64_t o = 0; o < width; ++o) {
          to[o] = o < count ? static_cast<double>(from[o * f.filter_step]) : 0.0;
        }
      }
      for (int i = 0; i < size.reach_lines && lines > 1; ++i) {
        for (int s = 0; s < 3; ++s) {
          const double* from = taps.data() + s * width;
          double* to = half.data() + (i * 3 + s) * width;
          for (int64_t o = 0; o < width; ++o) {
            to[o] = g[i * 3] * from[o] + g[i * 3 + 1] * from[3 * width + o] +
                    g[i * 3 + 2] * from[6 * width + o];
          }
        }
      }
      for (int plane = 0; plane < planes; ++plane) {
        const double* from = (lines > 1 ? half : taps).data() + plane / size.reach_pixels * 3 * width;
        const double* row = g.data() + plane % size.reach_pixels * 3;
        float* to = out + (plane * depth + k) * width;
        for (int64_t o = 0; o < width; ++o) {
          to[o] = static_cast<float>(row[0] * from[o] + row[1] * from[width + o] +
                                     row[2] * from[2 * width + o]);
        }
      }
    }
    out += planes * depth * width;
  }
}

}  // namespace onnx_fusion::cpu
