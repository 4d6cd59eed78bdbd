#include "cpu/attention_plan.h"

#include <algorithm>
#include <limits>

#include "cpu/attention.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace onnx_fusion {

std::unique_ptr<StagePlan> plan_attention(const BoundProgram& bound, size_t stage) {
  if (bound.program->strict) return nullptr;  // the division is done after the product
  cpu::AttentionMatch match;
  if (!cpu::match_attention(bound, stage, &match)) return nullptr;
  return std::make_unique<cpu::AttentionPlan>(bound, match);
}

namespace cpu {
namespace {

constexpr int64_t kScoreFloats = 48 << 10;  // of a block of rows
constexpr int64_t kLeastRows = 16, kMostRows = 64;
constexpr int64_t kPieceRows = 16;  // of a block whose rows end at different keys
constexpr int64_t kLongRow = 1024;  // keys that are taken at once: more, with their values, leave
                                    // the second-level cache
constexpr int64_t kLongestRow = 4096;  // the same if few rows would find them there again
constexpr int64_t kKeyBlock = 512;

// The distance of rows, off the multiples of 1 KiB at which they would share a set of the cache.
int64_t spaced(int64_t floats) { return floats % 256 == 0 ? floats + 16 : floats; }

std::unique_ptr<Relay> relay_between(const BoundProgram& bound, const ScoreLetters& letters,
                                     int from, int to) {
  if (from == to) return nullptr;
  return std::make_unique<Relay>(bound, letters.stage, from, to, letters.rows, letters.keys);
}

}  // namespace

struct AttentionPlan::Buffers {
  float *keys, *values;  // packed
  float *queries, *scores, *others, *result, *highest, *sums, *rescale;
  char* tiles;
};

AttentionPlan::AttentionPlan(const BoundProgram& bound, const AttentionMatch& match)
    : match_(match),
      keys_(bound, match.scores.stage, match.key, match.scores.keys, match.depth, match.row_count),
      values_(bound, match.product.stage, match.value, match.features, match.product.keys,
              match.row_count),
      queries_(bound, match.scores.stage, match.query, match.scores.rows, match.depth),
      epilogue_(bound, match.product.stage, match.product.rows, match.features) {
  if (match.exponent != match.score_load || !finish_.make(bound, match)) {
    finish_ = ScoreFinish{};
    score_ = relay_between(bound, match.scores, match.dot, match.score);
  }
  exponent_ = relay_between(bound, match.softmax, match.score_load, match.exponent);
  weight_ = relay_between(bound, match.softmax, match.quotient, match.weight);
  weighing_ = relay_between(bound, match.product, match.weight_load, match.weighing);
  if (weight_ == nullptr && weighing_ == nullptr) {
    divides_ = output_.make_store(bound, match.product.stage, match.product.rows, match.features);
  }
  looks_for_ends_ = finish_.planes.size() == 1 && weight_ == nullptr && weighing_ == nullptr;
  choose_blocks();
}

void AttentionPlan::choose_blocks() {
  const int64_t keys = match_.keys, rows = match_.row_count;
  const bool whole = weight_ != nullptr || weighing_ != nullptr;  // they see the finished weights
  const int64_t at_once = rows < kLeastRows ? kLongestRow : kLongRow;
  key_block_ = keys <= at_once || whole ? keys : round_up(kKeyBlock, keys_.width);
  const int64_t most =
      std::min(kMostRows, std::max(kLeastRows, kScoreFloats / std::max<int64_t>(key_block_, 1)));
  row_blocks_ = (rows + most - 1) / most;
  row_block_ = (rows + row_blocks_ - 1) / row_blocks_;
  score_ld_ = spaced(round_up(key_block_, keys_.width));
  result_ld_ = round_up(values_.columns, values_.width);
  query_floats_ = queries_.in_place() ? 0 : row_block_ * queries_.depth();
  score_floats_ = row_block_ * score_ld_;
  result_floats_ = row_block_ * result_ld_;
  scratch_bytes_ = std::max({keys_.scratch_bytes(), values_.scratch_bytes(),
                             queries_.scratch_bytes(), epilogue_.scratch_bytes()});
  for (const auto* relay : {&score_, &exponent_, &weight_, &weighing_}) {
    if (*relay != nullptr) scratch_bytes_ = std::max(scratch_bytes_, (*relay)->scratch_bytes());
  }
}

void AttentionPlan::run(const RunContext& context) const {
  const bool relays = score_ || exponent_ || weight_ || weighing_;
  const double points = static_cast<double>(match_.batches) *
                        static_cast<double>(match_.row_count) * static_cast<double>(match_.keys);
  const double lanes = gemm_kernels().lanes;
  const double depth = static_cast<double>(keys_.depth + values_.columns);
  const double per_point = 0.5 + depth / (4.0 * lanes) + (relays ? 1.0 : 0.0);
  const double read = static_cast<double>(match_.batches) * static_cast<double>(match_.keys) *
                      depth * sizeof(float);
  const int64_t tasks =
      task_count(*context.parallel, std::max(points * per_point, read_nanoseconds(read)));
  const int64_t counts[] = {
      keys_.floats(), values_.floats(), query_floats_, score_floats_, relays ? score_floats_ : 0,
      result_floats_, row_block_,       row_block_,    row_block_};
  size_t bytes = scratch_bytes_;
  for (int64_t count : counts) bytes += static_cast<size_t>(round_up(count, 16)) * sizeof(float);

  const auto task = [&](int64_t begin, int64_t end, int64_t) {
    const Scratch scratch(bytes);
    if (scratch.data() == nullptr) return context.failed_line->store(-1);
    Buffers buffers;
    float* at = reinterpret_cast<float*>(scratch.data());
    float** const parts[] = {&buffers.keys,    &buffers.values, &buffers.queries,
                             &buffers.scores,  &buffers.others, &buffers.result,
                             &buffers.highest, &buffers.sums,   &buffers.rescale};
    for (size_t i = 0; i < std::size(parts); ++i) {
      *parts[i] = at;
      at += round_up(counts[i], 16);
    }
    buffers.tiles = reinterpret_cast<char*>(at);
    Place place;
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t batch = i / row_blocks_, block = i % row_blocks_;
      if (batch != packed) {
        const std::vector<BoundStage>& stages = context.bound->stages;
        locate_batch(stages[match_.scores.stage], match_.scores, match_, batch, place.scores);
        locate_batch(stages[match_.softmax.stage], match_.softmax, match_, batch, place.softmax);
        locate_batch(stages[match_.product.stage], match_.product, match_, batch, place.product);
        place.keys = keys_.prepare(context, place.scores, buffers.keys, buffers.tiles);
        place.values = values_.prepare(context, place.product, buffers.values, buffers.tiles);
        place.key_magnitude = place.value_magnitude = -1;
        packed = batch;
      }
      place.row0 = match_.row_count * block / row_blocks_;
      place.row1 = match_.row_count * (block + 1) / row_blocks_;
      run_block(context, &place, buffers);
    }
  };
  parallel_ranges(*context.parallel, match_.batches * row_blocks_, tasks, task);
}

void AttentionPlan::find_queries(const RunContext& context, const Place& place,
                                 const Buffers& buffers, const float** rows) const {
  const int64_t count = place.row1 - place.row0;
  if (queries_.in_place()) {
    const float* base = queries_.memory(context, place.scores);
    for (int64_t r = 0; r < count; ++r) rows[r] = base + queries_.row(place.row0 + r);
    return;
  }
  queries_.fill(context, place.scores, place.row0, place.row1, buffers.queries, buffers.tiles);
  for (int64_t r = 0; r < count; ++r) rows[r] = buffers.queries + r * queries_.depth();
}

void AttentionPlan::run_block(const RunContext& context, Place* place,
                              const Buffers& buffers) const {
  const float* queries[kMostRows];
  find_queries(context, *place, buffers, queries);
  if (!masks_ends(context, *place)) return run_rows(context, *place, queries, match_.keys, buffers);
  const int64_t begin = place->row0, end = place->row1;
  int64_t needed[kMostRows / kPieceRows + 1];
  const auto is_worth_it = [&](float bound) {
    int64_t products = 0;
    for (int64_t row = begin; row < end; row += kPieceRows) {
      const int64_t piece_end = std::min(end, row + kPieceRows);
      const int64_t keys = count_keys(context, *place, row, piece_end, bound);
      needed[(row - begin) / kPieceRows] = keys;
      products += keys * (piece_end - row);
    }
    return products * 8 <= (end - begin) * match_.keys * 7;
  };
  // Without looking at the keys: as few as can be.
  bool pieces = is_worth_it(0);
  if (pieces && place->key_magnitude < 0) {
    place->key_magnitude = keys_.magnitude(place->keys);
    place->value_magnitude = values_.magnitude(place->values);
  }
  pieces = pieces && is_worth_it(bound_scores(*place, queries, end - begin));
  if (!pieces) return run_rows(context, *place, queries, match_.keys, buffers);
  for (int64_t row = begin; row < end; row = place->row1) {
    place->row0 = row;
    place->row1 = std::min(end, row + kPieceRows);
    run_rows(context, *place, queries + (row - begin), needed[(row - begin) / kPieceRows], buffers);
  }
}

void AttentionPlan::run_rows(const RunContext& context, const Place& place,
                             const float* const* queries, int64_t keys,
                             const Buffers& buffers) const {
  const int64_t count = place.row1 - place.row0;
  std::fill(buffers.highest, buffers.highest + count, -std::numeric_limits<float>::infinity());
  for (int64_t key0 = 0; key0 < keys; key0 += key_block_) {
    const int64_t key1 = std::min(keys, key0 + key_block_);
    keys_.multiply(place.keys, queries, count, 0, keys_.depth, key0, key1, buffers.scores,
                   score_ld_, false);
    const float* const weights = weigh(context, place, buffers, key0, key1);
    const float* weight_rows[kMostRows];
    for (int64_t r = 0; r < count; ++r) weight_rows[r] = weights + r * score_ld_;
    values_.multiply(place.values, weight_rows, count, key0, key1, 0, values_.columns,
                     buffers.result, result_ld_, key0 > 0);
  }
  if (divides_) {
    float* const out = output_.memory(context, place.product);
    attention_kernels().divide({buffers.result, result_ld_, count, values_.columns, buffers.sums,
                                out, output_.rows() + place.row0});
    return;
  }
  if (weight_ == nullptr && weighing_ == nullptr) {
    for (int64_t r = 0; r < count; ++r) buffers.sums[r] = 1.0f / buffers.sums[r];
    attention_kernels().scale(buffers.result, result_ld_, count, values_.columns, buffers.sums);
  }
  epilogue_.run(context, place.product, place.row0, place.row1, 0, values_.columns, buffers.result,
                result_ld_, buffers.tiles);
}

// The scores of a block of keys become weights; where they lie then.
float* AttentionPlan::weigh(const RunContext& context, const Place& place, const Buffers& buffers,
                            int64_t key0, int64_t key1) const {
  const int64_t count = place.row1 - place.row0;
  float* at = buffers.scores;
  float* other = buffers.others;
  const auto relay = [&](const std::unique_ptr<Relay>& between, const int64_t* fixed) {
    if (between == nullptr) return;
    between->run(context, fixed, place.row0, place.row1, key0, key1, at, other, score_ld_,
                 buffers.tiles);
    std::swap(at, other);
  };
  relay(score_, place.scores);
  relay(exponent_, place.softmax);
  SoftmaxRows rows{};
  rows.scores = at;
  rows.ld = score_ld_;
  rows.rows = count;
  rows.columns = key1 - key0;
  rows.scale = finish_.scale;
  for (size_t p = 0; p < finish_.planes.size(); ++p) {
    rows.planes[p] = finish_.planes[p].memory(context, place.scores) + key0;
    rows.plane_rows[p] = finish_.planes[p].rows() + place.row0;
  }
  rows.highest = buffers.highest;
  rows.sums = buffers.sums;
  rows.rescale = key0 > 0 ? buffers.rescale : nullptr;
  attention_kernels().softmax(rows);
  if (key0 > 0) {
    attention_kernels().scale(buffers.result, result_ld_, count, values_.columns, buffers.rescale);
  }
  if (weight_ != nullptr || weighing_ != nullptr) {
    for (int64_t r = 0; r < count; ++r) buffers.rescale[r] = 1.0f / buffers.sums[r];
    attention_kernels().scale(at, score_ld_, count, key1 - key0, buffers.rescale);
  }
  relay(weight_, place.softmax);
  relay(weighing_, place.product);
  return at;
}

}  // namespace cpu
}  // namespace onnx_fusion
