#include "cpu/finish.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace onnx_fusion::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kRepeated = 512;   // floats of a bias repeated for short columns

// How far the index of a flattened axis is from its beginning in memory.
int64_t offset_along(const BoundStage& stage, const Axis& axis, const Linear& address,
                     int64_t index) {
  int64_t offset = 0;
  for (int k = axis.count; k-- > 0 && index > 0;) {
    const int letter = axis.letters[k];
    offset += index % stage.extents[letter] * address.coef[letter];
    index /= stage.extents[letter];
  }
  return offset;
}

}  // namespace

int64_t Finish::begin(const Plane& plane, const int64_t* fixed, int64_t row, int64_t column) const {
  int64_t at = plane.address->base;
  at += whole_ ? row * plane.row : offset_along(*stage_, rows_, *plane.address, row);
  at += whole_ ? column * plane.column : offset_along(*stage_, columns_, *plane.address, column);
  for (int l = 0; l < kMaxLetters; ++l) {
    if (free_ >> l & 1) at += plane.address->coef[l] * fixed[l];
  }
  return at;
}

FinishRows Finish::rows(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                        int64_t c0, int64_t c1, const float* accumulators, int64_t ld) const {
  const auto memory = [&](const Plane& plane) -> float* {
    if (plane.tensor < 0) return nullptr;
    return reinterpret_cast<float*>(context.tensors[plane.tensor]) + begin(plane, fixed, r0, c0);
  };
  FinishRows rows{};
  rows.accumulators = accumulators;
  rows.ld = ld;
  rows.rows = r1 - r0;
  rows.columns = c1 - c0;
  rows.scale = scale_;
  rows.shift = shift_;
  rows.clamps = low_ != -kInfinity || high_ != kInfinity;
  rows.low = low_;
  rows.high = high_;
  rows.row_bias = memory(row_bias_);
  rows.row_step = row_bias_.row;
  rows.column_bias = memory(column_bias_);
  rows.residual = memory(residual_);
  rows.residual_ld = residual_.row;
  rows.gain = memory(gain_);
  rows.gain_bias = memory(gain_bias_);
  rows.gain_first = gain_first_;
  rows.late_gain = memory(late_gain_);
  rows.late_bias = memory(late_bias_);
  rows.slope = memory(slope_);
  rows.slope_row = slope_.row;
  rows.slope_column = slope_.column;
  rows.activation = activation_;
  rows.late = late_;
  rows.scaled = scaled_;
  std::copy(p_, p_ + 4, rows.p);
  std::copy(after_, after_ + 2, rows.after);
  rows.out = memory(out_);
  rows.out_ld = out_.row;
  return rows;
}

void Finish::run(const RunContext& context, const int64_t* fixed, int64_t r0, int64_t r1,
                 int64_t c0, int64_t c1, const float* accumulators, int64_t ld) const {
  for (int64_t r = r0; r < r1;) {
    const int64_t row_end = std::min(r1, (r / row_run_ + 1) * row_run_);
    for (int64_t c = c0; c < c1;) {
      const int64_t column_end = std::min(c1, (c / column_run_ + 1) * column_run_);
      const float* from = accumulators + (r - r0) * ld + (c - c0);
      FinishRows piece = rows(context, fixed, r, row_end, c, column_end, from, ld);
      run_piece(piece);
      for (const Plane& plane : copies_) {
        float* to =
            reinterpret_cast<float*>(context.tensors[plane.tensor]) + begin(plane, fixed, r, c);
        for (int64_t i = 0; i < piece.rows; ++i) {
          std::memcpy(to + i * plane.row, piece.out + i * piece.out_ld,
                      static_cast<size_t>(piece.columns) * sizeof(float));
        }
      }
      c = column_end;
    }
    r = row_end;
  }
}

// Short rows that lie together are one.
void Finish::run_piece(FinishRows rows) const {
  const int64_t columns = rows.columns, count = rows.rows;
  const bool together = count > 1 && rows.ld == columns && rows.out_ld == columns &&
                        rows.row_bias == nullptr && rows.gain == nullptr &&
                        rows.late_gain == nullptr && rows.slope == nullptr &&
                        (rows.residual == nullptr || rows.residual_ld == columns);
  const int64_t group = rows.column_bias == nullptr ? count : kRepeated / columns;
  if (!together || group < 8) return finish_passes().all(rows);
  float repeated[kRepeated];
  if (rows.column_bias != nullptr) {
    for (int64_t i = 0; i < std::min(group, count); ++i) {
      std::copy(rows.column_bias, rows.column_bias + columns, repeated + i * columns);
    }
    rows.column_bias = repeated;
  }
  rows.rows = 1;
  for (int64_t r = 0; r < count; r += group) {
    rows.columns = std::min(group, count - r) * columns;
    finish_passes().all(rows);
    rows.accumulators += rows.columns;
    rows.out += rows.columns;
    if (rows.residual != nullptr) rows.residual += rows.columns;
  }
}

}  // namespace onnx_fusion::cpu
