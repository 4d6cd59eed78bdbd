// Rows of a contraction that are the windows of an image in ONNX's own layout, a few channels deep
// (the first convolution of a network): the lines of the image that a row of windows reads are
// copied, with what is outside, so that all windows are alike.
//
//   image   |a b c d e f|        line   0 a b c d e f 0     window i begins at step * i, its k lie
//                                       ^   ^   ^           at offsets[k], in lines of their own
#include <algorithm>
#include <cstring>
#include <map>

#include "cpu/contract_plan.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostLineFloats = 16 << 10;
constexpr int64_t kMostStep = 8, kMostDepth = 384;
constexpr int64_t kStripPixels = 96;

}  // namespace

// Fills lines_ if the rows are of this kind.
bool ContractPlan::choose_lines() {
  const OperandTables& tables = rows_side_.tables;
  if (transposed_ || row_.count == 0 || depth_ < 1 || depth_ > kMostDepth) return false;
  Lines lines;
  lines.pixels = stage_.extents[row_.letters[row_.count - 1]];
  if (lines.pixels < 2) return false;
  lines.step = tables.outer[1] - tables.outer[0];
  if (lines.step < 1 || lines.step > kMostStep) return false;
  const auto advances = [&](const auto& outer, int64_t step) {
    for (int64_t row = 1; row < rows_; ++row) {
      if (row % lines.pixels != 0 && outer[row] - outer[row - 1] != step) return false;
    }
    return true;
  };
  if (!advances(tables.outer, lines.step)) return false;
  for (size_t g = 0; g < tables.guards.size(); ++g) {
    if (advances(tables.guards[g].outer, 0)) continue;
    if (lines.guard >= 0 || !advances(tables.guards[g].outer, lines.step)) return false;
    lines.guard = static_cast<int>(g);
  }
  if (lines.guard < 0) return false;
  const std::vector<int32_t>& column = tables.guards[lines.guard].inner;
  const auto [low, high] = std::minmax_element(column.begin(), column.end());
  lines.first = *low;
  lines.floats = (lines.pixels - 1) * lines.step + *high - *low + 1;
  const int64_t span = (lines.floats + 15) / 16 * 16;
  std::map<int64_t, int64_t> seen;  // where a line begins, but for the window's column
  for (int64_t k = 0; k < depth_; ++k) {
    const auto [it, fresh] =
        seen.emplace(tables.inner[k] - column[k], static_cast<int64_t>(lines.sample.size()));
    if (fresh) lines.sample.push_back(k);
    const int64_t sample = lines.sample[it->second];
    for (const TableGuard& guard : tables.guards) {
      if (&guard == &tables.guards[lines.guard]) continue;
      if (guard.inner[k] != guard.inner[sample]) return false;
    }
    lines.offsets.push_back(it->second * span + column[k] - *low);
  }
  lines.row_floats = static_cast<int64_t>(lines.sample.size()) * span;
  lines.rows = std::max<int64_t>(1, kStripPixels / lines.pixels);
  if (lines.row_floats * lines.rows > kMostLineFloats) return false;
  lines_ = std::move(lines);
  return true;
}

void ContractPlan::copy_lines(const Item& item, int64_t row, float* to) const {
  const OperandTables& tables = rows_side_.tables;
  const TableGuard& column = tables.guards[lines_.guard];
  const int64_t span = lines_.row_floats / static_cast<int64_t>(lines_.sample.size());
  const int64_t at = column.outer[row] + lines_.first;  // the first one's column of the image
  const int64_t extent = static_cast<int64_t>(column.extent);
  const int64_t begin = std::clamp<int64_t>(-at, 0, lines_.floats);
  const int64_t end = std::clamp<int64_t>(extent - at, begin, lines_.floats);
  // What the next row of windows reads comes while this one is multiplied.
  const int64_t ahead = rows_ > lines_.pixels ? tables.outer[lines_.pixels] - tables.outer[0] : 0;
  for (const int64_t k : lines_.sample) {
    bool inside = true;
    for (const TableGuard& guard : tables.guards) {
      inside = inside && (&guard == &column ||
                          static_cast<uint32_t>(guard.outer[row] + guard.inner[k]) < guard.extent);
    }
    const int64_t first = inside ? begin : lines_.floats, last = inside ? end : lines_.floats;
    std::fill(to, to + first, tables.fill);
    if (first < last) {
      const float* from =
          item.rows + tables.outer[row] + tables.inner[k] - column.inner[k] + lines_.first;
      std::memcpy(to + first, from + first, static_cast<size_t>(last - first) * sizeof(float));
      for (int64_t i = first; ahead > 0 && i < last; i += 16) __builtin_prefetch(from + ahead + i);
    }
    std::fill(to + last, to + lines_.floats, tables.fill);
    to += span;
  }
}

void ContractPlan::point_lines(const Item& item, const Buffers& buffers, int64_t row0,
                               int64_t row1) const {
  float* to = buffers.borders;
  const float** pointer = buffers.pointers;
  for (int64_t row = row0; row < row1; to += lines_.row_floats) {
    const int64_t begin = row / lines_.pixels * lines_.pixels;
    copy_lines(item, begin, to);
    for (; row < std::min(row1, begin + lines_.pixels); ++row) {
      *pointer++ = to + (row - begin) * lines_.step;
    }
  }
  std::memset(buffers.whole, 1, static_cast<size_t>(pointers_));
}

}  // namespace onnx_fusion::cpu
