#include "cpu/pool.h"

#include <algorithm>

#include "cpu/contract_axes.h"
#include "cpu/parallel.h"
#include "cpu/tiles_plan.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMostTaps = 64;  // in one direction
constexpr int64_t kBufferFloats = 65536;  // half of a small L2 cache
constexpr int64_t kSumFloats = 2048;      // carried through the epilogue at once
constexpr int64_t kLeastLanes = 8;

float as_float(uint64_t literal) {
  const uint32_t bits = static_cast<uint32_t>(literal);
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// The only reduction of a stage, if its operand is a load of f32; else -1.
int find_reduction(const Stage& stage) {
  int found = -1;
  for (size_t i = 0; i < stage.body.size(); ++i) {
    if (!op_is_reduction(stage.body[i].op)) continue;
    if (found >= 0) return -1;
    found = static_cast<int>(i);
  }
  if (found < 0) return -1;
  const Instruction& line = stage.body[static_cast<size_t>(found)];
  const size_t from = static_cast<size_t>(stage.values[static_cast<size_t>(line.args[0])]);
  const bool plain = stage.body[from].op == Op::op_load && stage.body[from].dtype == DType::f32;
  return plain && line.op != Op::op_reduce_prod ? found : -1;
}

}  // namespace

struct PoolPlan::Room {
  float* buffer;  // [column][channel of the block]
  float* sums;
  char* scratch;
};

std::unique_ptr<PoolPlan> PoolPlan::make(const BoundProgram& bound, size_t stage) {
  const BoundStage& s = bound.stages[stage];
  const int line = find_reduction(*s.stage);
  if (line < 0 || s.empty) return nullptr;
  const Instruction& reduction = s.stage->body[static_cast<size_t>(line)];
  const size_t from = static_cast<size_t>(s.stage->values[static_cast<size_t>(reduction.args[0])]);
  const Instruction& load = s.stage->body[from];
  const BoundMap& map = s.maps[from];
  if (!map.linear || map.indirect) return nullptr;
  // What follows may not depend on the taps, and only the reduction reads the load.
  for (size_t i = 0; i < s.stage->body.size(); ++i) {
    const Instruction& other = s.stage->body[i];
    if (i != from && (other.letters & reduction.over)) return nullptr;
    for (int a = 0; a < other.arg_count; ++a) {
      const int used = s.stage->values[static_cast<size_t>(other.args[a])];
      if (static_cast<size_t>(used) == from && static_cast<int>(i) != line) return nullptr;
    }
  }
  std::unique_ptr<PoolPlan> plan(new PoolPlan);
  const int op = static_cast<int>(reduction.op) - static_cast<int>(Op::op_reduce_sum);
  plan->pass_ = kernels().window[op];
  plan->nothing_ = op == 0 ? 0.0f : op == 1 ? -__builtin_inff() : __builtin_inff();
  if (map.guarded && as_float(load.literal) != plan->nothing_) return nullptr;
  plan->stage_index_ = stage;
  plan->input_ = load.tensor;
  plan->address_ = &map.address;
  WindowSide sides[kMostSides];
  const int count = find_sides(s, map, reduction.over, sides);
  if (count == 0) return nullptr;
  plan->columns_ = sides[count - 1];
  if (count > 1) plan->rows_ = sides[count - 2];
  if (count > 2) plan->planes_ = sides[0];
  // Two passes pay where windows overlap; without outputs along the columns nothing slides at all.
  const auto overlaps = [](const WindowSide& side) {
    return side.taps > 1 && side.reach * side.taps > side.step;
  };
  const WindowSide &planes = plan->planes_, &rows = plan->rows_, &columns = plan->columns_;
  if (columns.letter < 0 || planes.taps * rows.taps > kMostTaps || columns.taps > kMostTaps) {
    return nullptr;
  }
  const bool slides = overlaps(columns) || overlaps(rows) || overlaps(planes);
  if (!slides && !plan->takes_pairs()) return nullptr;
  const std::vector<int> stores = stores_of(s);
  if (stores.empty()) return nullptr;
  plan->store_ = &s.maps[static_cast<size_t>(stores[0])].address;
  for (size_t l = 0; l < s.stage->letters.size(); ++l) {
    const bool kept = !(reduction.over >> l & 1) && s.extents[l] > 1;
    if (!kept) continue;
    if (!(reduction.letters >> l & 1)) return nullptr;
    const int letter = static_cast<int>(l);
    if (letter == planes.letter || letter == rows.letter || letter == columns.letter) continue;
    plan->outer_.letters[plan->outer_.count++] = static_cast<uint8_t>(l);
  }
  sort_axis(&plan->outer_, *plan->store_);
  if (!plan->find_lanes(s)) return nullptr;
  plan->divisor_ = PoolDivisor(bound, stage, line, planes, rows, columns);
  plan->epilogue_ = std::make_unique<Epilogue>(bound, stage, plan->rows_axis_, plan->lanes_axis_,
                                               plan->divisor_.line());
  int tensor = -1;
  if (stores.size() == 1 && plan->epilogue_->plain_store(&tensor) != nullptr) plan->out_ = tensor;
  if (plan->channel_ < 0) plan->lines_ = kernels().pool[op];
  if (slides) return plan;
  const bool divides = plan->divisor_.line() >= 0;
  if (plan->out_ < 0 || plan->channel_ >= 0 || (divides && plan->divisor_.uniform() == 0))
    return nullptr;
  plan->pairs_ = kernels().pairs[op];
  return plan;
}

// Whether windows of one plane are two wide and lie side by side in a line, whole.
bool PoolPlan::takes_pairs() const {
  return planes_.taps * planes_.outputs == 1 && !planes_.guarded && !rows_.guarded &&
         !columns_.guarded && columns_.taps == 2 && columns_.step == 2 && columns_.reach == 1;
}

void PoolPlan::run_pairs(const RunContext& context) const {
  const double work = static_cast<double>(outers_ * rows_.outputs * columns_.outputs);
  const int64_t tasks = task_count(*context.parallel, work * static_cast<double>(rows_.taps) * 0.2);
  parallel_ranges(*context.parallel, outers_, tasks, [&](int64_t begin, int64_t end, int64_t) {
    int64_t letters[kMaxLetters] = {};
    PairRows rows{};
    rows.out_row = rows_.letter >= 0 ? store_->coef[rows_.letter] : 0;
    rows.row = rows_.step * rows_.stride;
    rows.line = rows_.reach * rows_.stride;
    rows.lines = rows_.taps;
    rows.rows = rows_.outputs;
    rows.outputs = columns_.outputs;
    rows.divisor = divisor_.uniform();
    int64_t planes = 1;  // that follow each other as a plane's rows do
    if (outer_.count == 1 && address_->coef[outer_.letters[0]] == rows.rows * rows.row &&
        store_->coef[outer_.letters[0]] == rows.rows * rows.out_row) {
      planes = end - begin;
      rows.rows *= planes;
    }
    for (int64_t i = begin; i < end; i += planes) {
      locate(context.bound->stages[stage_index_], outer_, i, letters);
      int64_t in = address_->base, to = store_->base;
      for (int k = 0; k < outer_.count; ++k) {
        in += address_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
        to += store_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
      }
      rows.x = reinterpret_cast<const float*>(context.tensors[input_]) + in;
      rows.out = reinterpret_cast<float*>(context.tensors[out_]) + to;
      pairs_(rows);
    }
  });
}

bool PoolPlan::find_lanes(const BoundStage& stage) {
  const WindowSide& c = columns_;
  const bool rows = c.stride == 1 && store_->coef[c.letter] == 1;
  int channel = -1;
  for (int k = 0; k < outer_.count; ++k) {
    const int letter = outer_.letters[k];
    if (address_->coef[letter] == 1 && store_->coef[letter] == 1) channel = letter;
  }
  if (channel < 0 && !rows) return false;
  if (channel >= 0) {
    channel_ = channel;
    channels_ = stage.extents[channel];
    uint8_t* end =
        std::remove(outer_.letters, outer_.letters + outer_.count, static_cast<uint8_t>(channel));
    outer_.count = static_cast<int>(end - outer_.letters);
    if (channels_ < kLeastLanes) return false;
  }
  outers_ = axis_extent(stage, outer_);
  first_ = c.base;
  width_ = c.step * (c.outputs - 1) + c.reach * (c.taps - 1) + 1;
  inside0_ = c.guarded ? std::max<int64_t>(0, -first_) : 0;
  inside1_ = c.guarded ? std::min(width_, c.extent - first_) : width_;
  inside1_ = std::max(inside0_, inside1_);
  const int64_t most = std::max<int64_t>(16, kBufferFloats / width_ / 16 * 16);
  block_ = std::min(channels_, most);
  rows_axis_ = outer_;
  for (const int letter : {planes_.letter, rows_.letter}) {
    if (letter >= 0) rows_axis_.letters[rows_axis_.count++] = static_cast<uint8_t>(letter);
  }
  Axis& pixels = channel_ < 0 ? lanes_axis_ : rows_axis_;
  pixels.letters[pixels.count++] = static_cast<uint8_t>(c.letter);
  if (channel_ >= 0) lanes_axis_.letters[lanes_axis_.count++] = static_cast<uint8_t>(channel_);
  return true;
}

// The rows under output row `row` (counted over the planes), joined.
void PoolPlan::join_rows(const float* x, int64_t row, int64_t lanes, const Room& room) const {
  int64_t offsets[kMostTaps], count = 0;
  const int64_t plane = planes_.step * (row / rows_.outputs);
  const int64_t line = rows_.step * (row % rows_.outputs);
  for (int64_t u = 0; u < planes_.taps; ++u) {
    if (!planes_.inside(plane + planes_.reach * u + planes_.base, 1, 0)) continue;
    for (int64_t t = 0; t < rows_.taps; ++t) {
      if (!rows_.inside(line + rows_.reach * t + rows_.base, 1, 0)) continue;
      offsets[count++] = planes_.reach * u * planes_.stride + rows_.reach * t * rows_.stride;
    }
  }
  float* out = room.buffer + inside0_ * lanes;
  if (count == 0) {
    std::fill(out, out + (inside1_ - inside0_) * lanes, nothing_);
    return;
  }
  x += plane * planes_.stride + line * rows_.stride + inside0_ * columns_.stride;
  if (columns_.stride == lanes) {
    return pass_(out, x, offsets, count, 1, (inside1_ - inside0_) * lanes);
  }
  for (int64_t j = inside0_; j < inside1_; ++j, out += lanes, x += columns_.stride) {
    pass_(out, x, offsets, count, 1, lanes);
  }
}

// The columns of the buffer under each output, joined; outputs of channels lie `pixel` apart.
void PoolPlan::join_columns(int64_t lanes, float* out, int64_t pixel, const Room& room) const {
  const WindowSide& c = columns_;
  int64_t offsets[kMostTaps];
  for (int64_t t = 0; t < c.taps; ++t) offsets[t] = c.reach * t * lanes;
  if (c.step == 1 && pixel == lanes) {
    return pass_(out, room.buffer, offsets, c.taps, 1, c.outputs * lanes);
  }
  for (int64_t q = 0; q < c.outputs; ++q, out += pixel) {
    pass_(out, room.buffer + c.step * q * lanes, offsets, c.taps, 1, lanes);
  }
}

void PoolPlan::run(const RunContext& context) const {
  if (pairs_ != nullptr) return run_pairs(context);
  if (lines_ != nullptr) return run_lines(context);
  run_images(context);
}

void PoolPlan::run_images(const RunContext& context) const {
  const int64_t blocks = (channels_ + block_ - 1) / block_;
  const int64_t lines = planes_.outputs * rows_.outputs;
  const int64_t per_row =
      width_ * planes_.taps * rows_.taps + columns_.outputs * (columns_.taps + 2);
  const double work = static_cast<double>(outers_ * lines * channels_ * per_row);
  const int64_t tasks = task_count(*context.parallel, work * 0.08);
  const int64_t floats = (width_ * block_ + 15) / 16 * 16 + 16;
  const int64_t line = columns_.outputs * block_;
  // Rows of sums whose epilogues are one call; channels that are not whole lie apart.
  const int64_t group = out_ >= 0 || blocks > 1 ? 1 : std::max<int64_t>(1, kSumFloats / line);
  const size_t bytes = static_cast<size_t>(floats + (group * line + 15) / 16 * 16) * sizeof(float) +
                       epilogue_->scratch_bytes() + 64;

  parallel_ranges(
      *context.parallel, outers_ * blocks * lines, tasks, [&](int64_t begin, int64_t end, int64_t) {
        const Scratch scratch(bytes);
        if (scratch.data() == nullptr) return context.failed_line->store(-1);
        Room room{};
        room.buffer = reinterpret_cast<float*>(scratch.data());
        room.sums = room.buffer + floats;
        room.scratch = reinterpret_cast<char*>(room.sums + (group * line + 15) / 16 * 16);
        int64_t filled = 0;  // channels for which the buffer's border is
        for (int64_t first = begin; first < end; first += group) {
          const int64_t last = std::min(end, first + group);
          for (int64_t i = first; i < last; ++i) {
            const int64_t lanes = std::min(block_, channels_ - i / lines % blocks * block_);
            if (filled != lanes) {
              std::fill(room.buffer, room.buffer + inside0_ * lanes, nothing_);
              std::fill(room.buffer + inside1_ * lanes, room.buffer + width_ * lanes, nothing_);
              filled = lanes;
            }
            run_row(context, i, lanes, room.sums + (i - first) * line, room);
          }
          if (out_ < 0) finish(context, first, last, filled, room);
        }
      });
}

// Row i of all, counted over the outer letters, the blocks of channels and the rows.
void PoolPlan::run_row(const RunContext& context, int64_t i, int64_t lanes, float* sums,
                       const Room& room) const {
  const int64_t blocks = (channels_ + block_ - 1) / block_;
  const int64_t lines = planes_.outputs * rows_.outputs, row = i % lines, part = i / lines;
  const int64_t channel = part % blocks * block_;
  int64_t letters[kMaxLetters] = {};
  locate(context.bound->stages[stage_index_], outer_, part / blocks, letters);
  int64_t in = address_->base + channel, to = store_->base + channel;
  for (int k = 0; k < outer_.count; ++k) {
    in += address_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
    to += store_->coef[outer_.letters[k]] * letters[outer_.letters[k]];
  }
  if (rows_.letter >= 0) to += store_->coef[rows_.letter] * (row % rows_.outputs);
  if (planes_.letter >= 0) to += store_->coef[planes_.letter] * (row / rows_.outputs);
  join_rows(reinterpret_cast<const float*>(context.tensors[input_]) + in, row, lanes, room);
  float* const out = out_ >= 0 ? reinterpret_cast<float*>(context.tensors[out_]) + to : sums;
  const int64_t pixel = out_ >= 0 ? store_->coef[columns_.letter] : lanes;
  join_columns(lanes, out, pixel, room);
  if (divisor_.line() < 0) return;
  const float* const divisors = divisor_.row(row / rows_.outputs, row % rows_.outputs);
  kernels().divide(out, pixel, divisors, divisor_.apart(), columns_.outputs, lanes);
}

void PoolPlan::finish(const RunContext& context, int64_t first, int64_t last, int64_t lanes,
                      const Room& room) const {
  const int64_t blocks = (channels_ + block_ - 1) / block_;
  const int64_t fixed[kMaxLetters] = {};
  const int64_t lines = planes_.outputs * rows_.outputs, part = first / lines;
  const int64_t channel = part % blocks * block_, line = part / blocks * lines + first % lines;
  epilogue_->run(context, fixed, line * columns_.outputs, (line + last - first) * columns_.outputs,
                 channel, channel + lanes, room.sums, lanes, room.scratch);
}

}  // namespace onnx_fusion::cpu
