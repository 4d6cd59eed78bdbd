// Keys that a mask takes out of the end of a row: causal masks, padded sequences. Their weights are
// exactly 0, so neither their scores nor their part of the result is computed.
//
// With |score| <= b for every key, key j of a row counts for nothing if mask[j] < mask[0] - 2 b -
// 104: e^-104 is 0 as a float. That needs all queries, keys and values to be finite, which is
// looked up only where a row's last key is far below its first one.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/attention_plan.h"
#include "cpu/sizes.h"

namespace onnx_fusion::cpu {
namespace {

constexpr float kNothing = 104.0f;  // e to the minus this is 0
constexpr float kLargest = 1e30f;  // of a first mask and of a bound that are calculated with

}  // namespace

bool AttentionPlan::masks_ends(const RunContext& context, const Place& place) const {
  if (!looks_for_ends_) return false;
  const PlaneRows& plane = finish_.planes[0];
  const float* const mask = plane.memory(context, place.scores);
  return std::any_of(plane.rows() + place.row0, plane.rows() + place.row1, [&](int64_t row) {
    return mask[row + match_.keys - 1] < mask[row] - kNothing;
  });
}

float AttentionPlan::bound_scores(const Place& place, const float* const* queries,
                                  int64_t count) const {
  float query = 0;
  for (int64_t r = 0; r < count; ++r) {
    query = std::max(query, attention_kernels().magnitude(queries[r], keys_.depth));
  }
  const float bound = query * place.key_magnitude * static_cast<float>(keys_.depth) *
                      std::fabs(finish_.scale) * 1.01f;
  return std::isfinite(place.value_magnitude) ? bound : std::numeric_limits<float>::infinity();
}

int64_t AttentionPlan::count_keys(const RunContext& context, const Place& place, int64_t row0,
                                  int64_t row1, float bound) const {
  const PlaneRows& plane = finish_.planes[0];
  const float* const mask = plane.memory(context, place.scores);
  int64_t most = 1;
  for (int64_t r = row0; r < row1 && most < match_.keys; ++r) {
    if (r > row0 && plane.rows()[r] == plane.rows()[r - 1]) continue;
    const float* const row = mask + plane.rows()[r];
    // Not true for NaN either.
    if (!(std::fabs(row[0]) <= kLargest && bound <= kLargest)) return match_.keys;
    const float least = row[0] - 2 * bound - kNothing - 1e-6f * std::fabs(row[0]);
    most = std::max(most, attention_kernels().live(row, match_.keys, least));
  }
  return std::min(match_.keys, round_up(most, 16));
}

}  // namespace onnx_fusion::cpu
