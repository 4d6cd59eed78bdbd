// Schedules: the segments of a program, and what is done to its steps once they are known.
#include <algorithm>

#include "cpu/compile.h"
#include "cpu/past_cache.h"

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kPastTile = 2048;  // points that are written and copied in turn, at most
constexpr int64_t kLine = 16;        // elements
constexpr int64_t kVeryLongRow = 16384;

// The kernel that does the same and writes past the caches, null if there is none.
Idiom past_of(Idiom idiom, int64_t row) {
  const Kernels& k = kernels();
  const bool lines = row % kLine == 0;
  for (int how = 0; how < 2; ++how) {
    if (idiom == k.softmax[how] && (lines || row >= kVeryLongRow)) return k.softmax_past[how];
    for (int centred = 0; centred < 2; ++centred) {
      if (idiom == k.norm[centred][how] && lines) return k.norm_past[centred][how];
    }
  }
  return idiom == k.log_softmax && (lines || row >= kVeryLongRow) ? k.log_softmax_past : nullptr;
}

bool is_softmax(Idiom idiom) {
  const Kernels& k = kernels();
  return idiom == k.softmax[0] || idiom == k.softmax[1] || idiom == k.log_softmax ||
         idiom == k.softmax_past[0] || idiom == k.softmax_past[1] || idiom == k.log_softmax_past;
}

// The kernel reads one row of its operands c and d, which is for all of the tile's.
bool reads_one_row(const Step& step) {
  if (step.kind != StepKind::idiom) return false;
  const Kernels& k = kernels();
  for (int biased = 0; biased < 2; ++biased) {
    for (int centred = 0; centred < 2; ++centred) {
      if (step.idiom == k.norm[centred][biased] || step.idiom == k.norm_past[centred][biased]) {
        return true;
      }
      for (int how = 0; how < kScalings; ++how) {
        if (step.idiom == k.scale[centred][how][biased][1]) return true;
      }
    }
  }
  return false;
}

bool uses(const TileProgram& program, const Step& step, int slot) {
  if (step.kind == StepKind::strand) {
    for (const Strand::Link& link : program.strands[static_cast<size_t>(step.ref)].links) {
      if (link.slot == slot) return true;
    }
  }
  for (int in : {step.a, step.b, step.e}) {
    if (in == slot) return true;
  }
  return !reads_one_row(step) && (step.c == slot || step.d == slot);
}

}  // namespace

// Every reduction is of one f32 load, whose `else` is what the reduction gives over nothing.
bool Compiler::reads_windows() const {
  for (size_t i = 0; i < live_.size(); ++i) {
    const Instruction& instruction = stage_.body[i];
    if (!live_[i]) continue;
    if (over_reduced(static_cast<int>(i)) && instruction.op != Op::op_load) return false;
    if (!op_is_reduction(instruction.op)) continue;
    const int source = line_of(instruction.args[0]);
    if (instruction.dtype != DType::f32 || instruction.op == Op::op_reduce_prod) return false;
    if (at(source).op != Op::op_load || !over_reduced(source)) return false;
    const TileLoad& load = out_->loads[static_cast<size_t>(load_of_[static_cast<size_t>(source)])];
    const bool neutral = load.otherwise == nothing_bits(instruction);
    if (!load.indirects.empty() || !load.exprs.empty() || load.guards.size() > kMaxWindowGuards ||
        (!load.guards.empty() && !neutral)) {
      return false;
    }
  }
  for (size_t s = 0; s < store_lines_.size(); ++s) {
    if (out_->stores[s].axes & reduced_axes_) return false;
  }
  return levels() == 1;
}

std::unique_ptr<TileProgram> Compiler::windows() {
  windowed_ = true;
  return whole(false);
}

std::unique_ptr<TileProgram> Compiler::whole(bool lanes_inner) {
  set_tile();
  out_->lanes_inner = lanes_inner;
  out_->segments.emplace_back();
  steps_ = &out_->segments.back().steps;
  for (size_t i = 0; i < live_.size(); ++i) {
    if (live_[i] && !(windowed_ && over_reduced(static_cast<int>(i)))) emit(static_cast<int>(i));
    for (size_t s = 0; s < store_lines_.size(); ++s) {
      if (store_lines_[s] == static_cast<int>(i)) emit_store(s);
    }
  }
  if (slice_.sink >= 0) {
    TileStore sink{};
    const Instruction& root = at(taken_[static_cast<size_t>(slice_.sink)]);
    sink.tensor = -1;
    sink.size = size_index(root.dtype);
    sink.bytes = dtype_size(root.dtype);
    sink.axes = 0xffff;
    sink.width = Width::full;
    sink.slot = widen(emit(taken_[static_cast<size_t>(slice_.sink)]), Width::full);
    out_->stores.push_back(sink);
    Step step;
    step.kind = StepKind::store;
    step.a = sink.slot;
    step.ref = static_cast<int>(out_->stores.size()) - 1;
    push(step);
  }
  finish();
  return std::move(out_);
}

std::unique_ptr<TileProgram> Compiler::streamed(bool lanes_inner) {
  set_tile();
  out_->lanes_inner = lanes_inner;
  const int last = levels();
  const auto begin_segment = [&](bool loops) {
    out_->segments.emplace_back();
    out_->segments.back().loops = loops;
    steps_ = &out_->segments.back().steps;
    for (std::vector<int>& widened : widened_) std::fill(widened.begin(), widened.end(), -1);
    for (size_t i = 0; i < slot_of_.size(); ++i) {
      if (over_reduced(static_cast<int>(i))) slot_of_[i] = -1;
    }
  };
  int joins = 0;
  for (int level = 0; level <= last; ++level) {
    // Values and stores without a reduced letter, as soon as their reductions are known.
    begin_segment(false);
    for (size_t i = 0; i < live_.size(); ++i) {
      const int line = static_cast<int>(i);
      if (live_[i] && level_[i] == level && !over_reduced(line) && !op_is_reduction(at(line).op)) {
        emit(line);
      }
    }
    const auto store_reduced = [&](size_t s) {
      const int value = line_of(at(store_lines_[s]).args[0]);
      return over_reduced(value) || (out_->stores[s].axes & reduced_axes_);
    };
    const auto store_level = [&](size_t s) {
      return level_[static_cast<size_t>(line_of(at(store_lines_[s]).args[0]))];
    };
    for (size_t s = 0; s < store_lines_.size(); ++s) {
      if (store_level(s) == level && !store_reduced(s)) emit_store(s);
    }
    begin_segment(true);
    std::vector<Step> finals;
    for (size_t i = 0; i < live_.size(); ++i) {
      const Instruction& instruction = stage_.body[i];
      if (!live_[i] || !op_is_reduction(instruction.op) || level_[i] != level + 1) continue;
      Step gather;
      gather.kind = StepKind::gather;
      gather.reduce =
          &kernels().reduce[static_cast<int>(instruction.op) - static_cast<int>(Op::op_reduce_sum)]
                           [compute_type(instruction.dtype)];
      gather.width = width_of(depends_[i]);
      const bool chunked = out_->full_axes.size() != out_->row_axes.size();
      const int operand = emit(line_of(instruction.args[0]));
      gather.from = chunked ? Width::full : gather.width;
      gather.a = widen(operand, gather.from);
      gather.out = new_slot(instruction.dtype, gather.width);
      gather.b = new_slot(instruction.dtype, gather.width);
      gather.c = new_slot(instruction.dtype, gather.width);
      gather.ref = joins++;
      push(gather);
      Step finish = gather;
      finish.kind = StepKind::finish;
      finish.a = gather.out;
      finish.out = new_slot(instruction.dtype, gather.width);
      slot_of_[i] = finish.out;
      finals.push_back(finish);
    }
    for (size_t s = 0; s < store_lines_.size(); ++s) {
      if (store_level(s) == level && store_reduced(s)) emit_store(s);
    }
    if (steps_->empty()) out_->segments.pop_back();
    if (!finals.empty()) {
      out_->segments.emplace_back();
      out_->segments.back().steps = std::move(finals);
    }
  }
  out_->joined_offset = static_cast<size_t>(joins);  // until place_slots gives it a place
  finish();
  return std::move(out_);
}

void Compiler::finish() {
  std::vector<Segment>& segments = out_->segments;
  segments.erase(std::remove_if(segments.begin(), segments.end(),
                                [](const Segment& s) { return s.steps.empty(); }),
                 segments.end());
  join_steps(out_.get());
  place_stores();
  point_loads();
  join_strands(out_.get());
  place_slots(out_.get());
  estimate();
}

// The tile is contiguous in memory at every position, also where less than a chunk is left.
bool Compiler::lies_flat(const Linear& address, Width width, uint16_t over) const {
  if (width == Width::scalar) return true;
  const std::vector<int>& axes = width == Width::full ? out_->full_axes : out_->row_axes;
  // Contractions ask for boxes of any size.
  if (axes.size() > 1 && (slice_.leaf >= 0 || slice_.sink >= 0)) return false;
  int64_t length = 1;
  for (size_t k = axes.size(); k-- > 0;) {
    const TileAxis& axis = out_->axes[static_cast<size_t>(axes[k])];
    if (!(over >> axes[k] & 1) || address.coef[axes[k]] != length) return false;
    if (k > 0 && axis.chunk != axis.extent) return false;
    length *= axis.extent;
  }
  return true;
}

// Makes a step set its slot's pointer and do nothing else.
void Compiler::point(Step* step, int tensor, size_t bytes, const Linear& address, bool writes) {
  out_->slots[static_cast<size_t>(step->out)].pointed = true;
  step->kind = StepKind::point;
  step->ref = static_cast<int>(out_->points.size());
  out_->points.push_back({tensor, static_cast<int64_t>(bytes), address, writes});
}

// A value computed by one step and stored as it is may be computed in place.
void Compiler::place_stores() {
  for (Segment& segment : out_->segments) {
    std::vector<Step> places;
    for (Step& step : segment.steps) {
      Step place;
      if (step.kind != StepKind::store || !place_store(step, places, &segment, &place)) continue;
      if (place.kind == StepKind::point) step.out = place.out;  // nothing is left to store
      places.push_back(place);
    }
    const auto is_done = [](const Step& s) { return s.kind == StepKind::store && s.out >= 0; };
    for (const Step& step : segment.steps) {
      if (!is_done(step)) places.push_back(step);
    }
    segment.steps = std::move(places);
  }
}

// Whether a store goes past the caches; what makes its value then does that itself, or else it is
// made in a buffer, so short that it is copied while the next is read, and not placed.
bool Compiler::writes_past(const TileStore& store, Step* producer) {
  if (store.tensor < 0 || slice_.leaf >= 0 || slice_.sink >= 0) return false;
  const auto tensor = static_cast<size_t>(store.tensor);
  if (bound_.band && bound_.program->tensors[tensor].kind == TensorKind::temp) return false;
  const int64_t bytes = bound_.tensors[tensor].elements * static_cast<int64_t>(store.bytes);
  if (bytes < past_cache_bytes() || store.width != Width::full ||
      !lies_flat(store.address, store.width, store.axes)) {
    return false;
  }
  if (producer->kind == StepKind::idiom && !out_->lanes_inner) {
    const Idiom past = past_of(producer->idiom, out_->full_capacity / out_->row_capacity);
    if (past != nullptr) {
      if (is_softmax(producer->idiom)) producer->b = new_slot(DType::f32, Width::full);
      producer->idiom = past;
      out_->has_past = out_->drains = true;
      return false;
    }
  }
  out_->drains = out_->drains || out_->full_capacity <= kPastTile;
  return out_->full_capacity <= kPastTile;
}

bool Compiler::place_store(const Step& step, const std::vector<Step>& places, Segment* segment,
                           Step* place) {
  const TileStore& store = out_->stores[static_cast<size_t>(step.ref)];
  const auto placed = [&](const Step& p) { return p.out == store.slot; };
  if (store.width == Width::scalar || std::any_of(places.begin(), places.end(), placed)) {
    return false;
  }
  const auto makes = [&](const Step& p) { return p.out == store.slot; };
  const auto producer = std::find_if(segment->steps.begin(), segment->steps.end(), makes);
  if (producer == segment->steps.end()) return false;
  switch (producer->kind) {
    case StepKind::pass:
    case StepKind::choose:
    case StepKind::fill:
    case StepKind::repeat:
    case StepKind::load:
    case StepKind::reduce:
    case StepKind::index:
    case StepKind::window:
    case StepKind::row_pass:
    case StepKind::idiom: break;
    default: return false;
  }
  if (writes_past(store, &*producer)) {
    out_->stores[static_cast<size_t>(step.ref)].past = true;
    return false;
  }
  if (producer->kind == StepKind::load) producer->op = Op::op_store;
  place->kind = StepKind::place;
  place->width = store.width;
  place->out = store.slot;
  place->ref = step.ref;
  if (store.tensor >= 0 && lies_flat(store.address, store.width, store.axes)) {
    point(place, store.tensor, store.bytes, store.address, true);
  }
  return true;
}

// Every row of the tile is the same consecutive elements, and nobody reads more than the first.
bool Compiler::lies_in_one_row(const TileLoad& load, const Step& loading) const {
  if (loading.width != Width::full || slice_.leaf >= 0 || slice_.sink >= 0) return false;
  int64_t length = 1;
  for (size_t k = out_->full_axes.size(); k-- > 0;) {
    const int a = out_->full_axes[k];
    const TileAxis& axis = out_->axes[static_cast<size_t>(a)];
    const int64_t step = axis.reduced ? length : 0;
    if (load.address.coef[a] != step || (axis.reduced && axis.chunk != axis.extent)) return false;
    if (axis.reduced) length *= axis.extent;
  }
  for (const TileLoad& other : out_->loads) {
    for (const TileIndirect& indirect : other.indirects) {
      if (indirect.slot == loading.out) return false;
    }
  }
  for (const Segment& segment : out_->segments) {
    for (const Step& step : segment.steps) {
      if (&step != &loading && uses(*out_, step, loading.out)) return false;
    }
  }
  return true;
}

// Loads of what lies in memory as the tile wants it, and of what is the same for all tiles.
void Compiler::point_loads() {
  std::vector<int> loaded(out_->loads.size(), 0);  // into how many slots
  for (const Segment& segment : out_->segments) {
    for (const Step& step : segment.steps) {
      if (step.kind == StepKind::load) ++loaded[static_cast<size_t>(step.ref)];
    }
  }
  for (Segment& segment : out_->segments) {
    for (Step& step : segment.steps) {
      if (step.kind != StepKind::load || step.op == Op::op_store) continue;
      TileLoad& load = out_->loads[static_cast<size_t>(step.ref)];
      if (load.tensor < 0 || !load.guards.empty() || !load.indirects.empty() ||
          !load.exprs.empty()) {
        continue;
      }
      if (lies_flat(load.address, step.width, 0xffff)) {
        point(&step, load.tensor, load.bytes, load.address, false);
        continue;
      }
      if (lies_in_one_row(load, step)) {
        point(&step, load.tensor, load.bytes, load.address, false);
        continue;
      }
      load.once = slice_.leaf < 0 && slice_.sink < 0 && loaded[static_cast<size_t>(step.ref)] == 1;
      for (size_t a = 0; a < out_->axes.size(); ++a) {
        const TileAxis& axis = out_->axes[a];
        load.once = load.once && (axis.chunk == axis.extent || load.address.coef[a] == 0);
      }
    }
  }
}

// Rough nanoseconds per point on one thread, for the number of tasks.
void Compiler::estimate() {
  out_->cost = 0;
  for (const Segment& segment : out_->segments) {
    for (const Step& step : segment.steps) {
      if (step.width == Width::scalar && step.from == Width::scalar) continue;
      double cost = 0.1;
      if (step.kind == StepKind::pass && step.op >= Op::op_exp && step.op <= Op::op_sigmoid) {
        cost = 0.6;
      }
      if (step.kind == StepKind::pass && step.op == Op::op_pow) cost = 5;
      if (step.kind == StepKind::pass && step.op == Op::op_div) cost = 0.2;
      if (step.kind == StepKind::strand) cost = out_->strands[static_cast<size_t>(step.ref)].cost;
      if (step.kind == StepKind::load || step.kind == StepKind::store) cost = 0.25;
      if (step.kind == StepKind::idiom) cost = is_softmax(step.idiom) ? 0.3 : 0.15;
      out_->cost += cost;
    }
  }
}

}  // namespace onnx_fusion::cpu
