#include "cpu/copy.h"

#include <algorithm>
#include <cstring>

#include "cpu/past_cache.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kTileBytes = 65536;
constexpr int64_t kFewRows = 8;
constexpr int64_t kLeastPast = 512;  // bytes of a row, most of which are whole lines

// Outside of the tensor at every position, so that the load gives its `else`.
bool is_outside(const TileGuard& guard, const std::vector<TileAxis>& axes) {
  int64_t lo = guard.form.base, hi = guard.form.base;
  for (size_t a = 0; a < axes.size(); ++a) {
    const int64_t last = guard.form.coef[a] * (axes[a].extent - 1);
    (last < 0 ? lo : hi) += last;
  }
  return hi < 0 || lo >= guard.extent;
}

}  // namespace

std::vector<std::unique_ptr<Copy>> Copy::split(const TileProgram& program) {
  struct Source {
    bool known = false, constant = false;
    int tensor = -1;
    uint64_t bits = 0;
    Linear address;
  };
  if (program.segments.size() != 1) return {};
  std::vector<Source> sources(program.slots.size());
  for (size_t s = 0; s < sources.size(); ++s) {
    const Slot& slot = program.slots[s];
    if (slot.is_constant) sources[s] = {true, true, -1, slot.constant, {}};
  }
  std::vector<std::unique_ptr<Copy>> copies;
  for (const Step& step : program.segments[0].steps) {
    const auto out = [&]() -> Source& { return sources[static_cast<size_t>(step.out)]; };
    if (step.kind == StepKind::point) {
      const TilePoint& point = program.points[static_cast<size_t>(step.ref)];
      if (point.writes) continue;
      out() = {true, false, point.tensor, 0, point.address};
    } else if (step.kind == StepKind::load) {
      const TileLoad& load = program.loads[static_cast<size_t>(step.ref)];
      if (load.tensor < 0 || !load.indirects.empty() || !load.exprs.empty()) return {};
      if (load.guards.empty()) {
        out() = {true, false, load.tensor, 0, load.address};
      } else if (std::any_of(load.guards.begin(), load.guards.end(), [&](const TileGuard& guard) {
                   return is_outside(guard, program.axes);
                 })) {
        out() = {true, true, -1, load.otherwise, {}};
      } else {
        return {};
      }
    } else if (step.kind == StepKind::fill || step.kind == StepKind::repeat) {
      out() = sources[static_cast<size_t>(step.a)];
    } else if (step.kind == StepKind::store || step.kind == StepKind::place) {
      continue;
    } else {
      return {};
    }
  }
  for (const TileStore& store : program.stores) {
    const Source& source = sources[static_cast<size_t>(store.slot)];
    if (!source.known || store.tensor < 0) return {};
    std::unique_ptr<Copy> copy(new Copy(program, store));
    copy->from_ = source.constant ? -1 : source.tensor;
    copy->constant_ = source.bits;
    copy->in_base_ = source.address.base;
    for (size_t a = 0; a < program.axes.size(); ++a) {
      if (!(store.axes >> a & 1)) continue;
      copy->loops_.push_back(
          {program.axes[a].extent, source.address.coef[a], store.address.coef[a]});
    }
    const BoundTensor& tensor = program.bound->tensors[static_cast<size_t>(store.tensor)];
    copy->past_ = tensor.elements * copy->bytes_ >= past_cache_bytes();
    copy->arrange();
    copies.push_back(std::move(copy));
  }
  return copies;
}

Copy::Copy(const TileProgram&, const TileStore& store)
    : to_(store.tensor),
      size_(store.size),
      bytes_(static_cast<int64_t>(store.bytes)),
      out_base_(store.address.base) {}

// Loops in the order of the output, neighbours merged, and what is innermost.
void Copy::arrange() {
  std::stable_sort(loops_.begin(), loops_.end(),
                   [](const Loop& a, const Loop& b) { return std::abs(a.out) > std::abs(b.out); });
  std::vector<Loop> merged;
  for (const Loop& loop : loops_) {
    if (!merged.empty() && merged.back().in == loop.in * loop.extent &&
        merged.back().out == loop.out * loop.extent) {
      merged.back() = {merged.back().extent * loop.extent, loop.in, loop.out};
    } else {
      merged.push_back(loop);
    }
  }
  loops_ = std::move(merged);
  if (!loops_.empty()) {
    row_ = loops_.back();
    loops_.pop_back();
  }
  kind_ = row_.out == 1 && (row_.in == 1 || row_.in == 0) ? Kind::runs : Kind::strided;
  if (row_.in == 0 && row_.out == 1 && !loops_.empty() && loops_.back().in == 1 &&
      loops_.back().out == row_.extent) {
    kind_ = Kind::repeated;
    across_ = loops_.back();
    loops_.pop_back();
  }
  // A call of the kernel does one loop of rows: best a long one, if its output stays in the cache.
  if (loops_.size() > 1 && loops_.back().extent < kFewRows) {
    Loop& before = loops_[loops_.size() - 2];
    if (before.extent >= kFewRows && std::abs(before.out) * before.extent * bytes_ <= kTileBytes) {
      std::swap(before, loops_.back());
    }
  }
  if (kind_ == Kind::strided && row_.out == 1) {
    const auto across = std::find_if(loops_.begin(), loops_.end(),
                                     [](const Loop& l) { return l.in == 1 && l.extent > 1; });
    if (across != loops_.end()) {
      kind_ = Kind::planes;
      across_ = *across;
      loops_.erase(across);
    }
  }
  rows_ = 1;
  for (const Loop& loop : loops_) rows_ *= loop.extent;
  if (kind_ == Kind::planes) {
    const int64_t points = kTileBytes / 2 / bytes_;
    row_block_ = row_.extent <= 128 ? row_.extent : 64;
    across_block_ = std::min(across_.extent, std::max<int64_t>(points / row_block_ / 64 * 64, 64));
    if (across_.extent < 64) {
      row_block_ = std::min(row_.extent, std::max<int64_t>(points / across_.extent / 64 * 64, 64));
    }
    tiles_ = rows_ * ((row_.extent + row_block_ - 1) / row_block_) *
             ((across_.extent + across_block_ - 1) / across_block_);
    return;
  }
  const int64_t length = row_.extent * across_.extent * bytes_;
  if (kind_ == Kind::repeated) {
    rows_a_tile_ = std::max<int64_t>(1, kTileBytes / std::max<int64_t>(length, 1));
    tiles_ = (rows_ + rows_a_tile_ - 1) / rows_a_tile_;
    return;
  }
  pieces_ = (length + 2 * kTileBytes - 1) / (2 * kTileBytes);
  rows_a_tile_ = pieces_ > 1 ? 1 : std::max<int64_t>(1, kTileBytes / std::max<int64_t>(length, 1));
  tiles_ = (rows_ * pieces_ + rows_a_tile_ - 1) / rows_a_tile_;
  past_ = past_ && kind_ == Kind::runs && row_.in == 1 && length >= kLeastPast;
}

double Copy::nanoseconds() const {
  double points = static_cast<double>(row_.extent * across_.extent);
  for (const Loop& loop : loops_) points *= static_cast<double>(loop.extent);
  const double each = kind_ == Kind::planes ? 0.2 : kind_ == Kind::strided ? 0.6 : 0.05;
  return points * each * static_cast<double>(bytes_) / 4 + static_cast<double>(rows_) * 3;
}

void Copy::run(const RunContext& context, int64_t begin, int64_t end) const {
  const char* const in = from_ < 0 ? reinterpret_cast<const char*>(&constant_)
                                   : context.tensors[from_] + in_base_ * bytes_;
  char* const out = context.tensors[to_] + out_base_ * bytes_;
  if (kind_ == Kind::planes) return run_planes(in, out, begin, end);
  run_rows(in, out, begin * rows_a_tile_, std::min(end * rows_a_tile_, rows_ * pieces_));
  if (past_) kernels().drain();
}

void Copy::run_rows(const char* in, char* out, int64_t begin, int64_t end) const {
  const Kernels& k = kernels();
  if (pieces_ > 1) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / pieces_, piece = i % pieces_;
      const int64_t first = row_.extent * piece / pieces_;
      const int64_t n = row_.extent * (piece + 1) / pieces_ - first;
      int64_t index = row, from = first * row_.in, to = first * row_.out;
      for (size_t l = loops_.size(); l-- > 0;) {
        from += index % loops_[l].extent * loops_[l].in;
        to += index % loops_[l].extent * loops_[l].out;
        index /= loops_[l].extent;
      }
      if (past_) {
        k.stream(out + to * bytes_, in + from * bytes_, n * bytes_);
      } else {
        k.copy[size_](out + to * bytes_, 0, row_.out, in + from * bytes_, 0, row_.in, n, 1);
      }
    }
    return;
  }
  if (kind_ == Kind::repeated) return run_repeated(in, out, begin, end);
  const Loop inner = loops_.empty() ? Loop{1, 0, 0} : loops_.back();
  for (int64_t i = begin; i < end;) {
    const int64_t first = i % inner.extent, count = std::min(inner.extent - first, end - i);
    int64_t index = i / inner.extent, from = first * inner.in, to = first * inner.out;
    for (size_t l = loops_.size(); l-- > 1;) {
      const Loop& loop = loops_[l - 1];
      from += index % loop.extent * loop.in;
      to += index % loop.extent * loop.out;
      index /= loop.extent;
    }
    if (past_) {
      for (int64_t r = 0; r < count; ++r) {
        k.stream(out + (to + r * inner.out) * bytes_, in + (from + r * inner.in) * bytes_,
                 row_.extent * bytes_);
      }
    } else {
      k.copy[size_](out + to * bytes_, inner.out, row_.out, in + from * bytes_, inner.in, row_.in,
                    row_.extent, count);
    }
    i += count;
  }
}

void Copy::run_repeated(const char* in, char* out, int64_t begin, int64_t end) const {
  const auto repeat = kernels().repeat[size_];
  const size_t count = loops_.size();
  int64_t at[kMaxLetters], from = 0, to = 0, index = begin;
  for (size_t l = count; l-- > 0;) {
    at[l] = index % loops_[l].extent;
    index /= loops_[l].extent;
    from += at[l] * loops_[l].in;
    to += at[l] * loops_[l].out;
  }
  for (int64_t i = begin; i < end; ++i) {
    repeat(out + to * bytes_, in + from * bytes_, across_.extent, row_.extent);
    for (size_t l = count; l-- > 0;) {
      from += loops_[l].in;
      to += loops_[l].out;
      if (++at[l] < loops_[l].extent) break;
      from -= loops_[l].in * loops_[l].extent;
      to -= loops_[l].out * loops_[l].extent;
      at[l] = 0;
    }
  }
}

void Copy::run_planes(const char* in, char* out, int64_t begin, int64_t end) const {
  const Kernels& k = kernels();
  const int64_t row_blocks = (row_.extent + row_block_ - 1) / row_block_;
  const int64_t across_blocks = (across_.extent + across_block_ - 1) / across_block_;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t r = i % row_blocks * row_block_;
    const int64_t c = i / row_blocks % across_blocks * across_block_;
    int64_t index = i / row_blocks / across_blocks;
    int64_t from = r * row_.in + c, to = r + c * across_.out;
    for (size_t l = loops_.size(); l-- > 0;) {
      from += index % loops_[l].extent * loops_[l].in;
      to += index % loops_[l].extent * loops_[l].out;
      index /= loops_[l].extent;
    }
    k.transpose[size_](out + to * bytes_, across_.out, in + from * bytes_, row_.in,
                       std::min(row_block_, row_.extent - r),
                       std::min(across_block_, across_.extent - c));
  }
}

}  // namespace onnx_fusion::cpu
