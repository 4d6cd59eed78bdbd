// Giving buffers to the slots of a compiled program.
#include <algorithm>
#include <map>

#include "cpu/compile.h"

namespace onnx_fusion::cpu {

void place_slots(TileProgram* program) {
  const size_t count = program->slots.size();
  std::vector<int> first(count, -1), last(count, -1);
  std::vector<size_t> kept;  // from tile to tile
  int now = 0;
  for (const Segment& segment : program->segments) {
    const int begin = now, end = now + static_cast<int>(segment.steps.size());
    const auto use = [&](int slot) {
      if (slot < 0) return;
      const size_t s = static_cast<size_t>(slot);
      if (first[s] < 0) first[s] = now;
      // What a loop reads but did not make in this round must outlive the loop.
      last[s] = segment.loops && first[s] < begin ? std::max(last[s], end) : std::max(last[s], now);
    };
    for (const Step& step : segment.steps) {
      for (int slot : {step.a, step.b, step.c, step.d, step.e, step.out}) {
        use(slot);
      }
      if (step.kind == StepKind::strand) {
        for (const Strand::Link& link : program->strands[static_cast<size_t>(step.ref)].links) {
          use(link.slot);
        }
      }
      if (step.kind == StepKind::load) {
        const TileLoad& load = program->loads[static_cast<size_t>(step.ref)];
        for (const TileIndirect& indirect : load.indirects) use(indirect.slot);
        if (load.once) kept.push_back(static_cast<size_t>(step.out));
      }
      if (step.kind == StepKind::gather) {
        for (int slot : {step.out, step.b, step.c}) {
          first[static_cast<size_t>(slot)] = begin;  // kept from round to round
          last[static_cast<size_t>(slot)] = std::max(last[static_cast<size_t>(slot)], end);
        }
      }
      ++now;
    }
  }
  for (size_t s : kept) {
    first[s] = 0;
    last[s] = now;
  }
  // Buffers are handed out in the order of time; one that is free again serves the next of its
  // size.
  std::vector<size_t> order;
  for (size_t s = 0; s < count; ++s) {
    if (first[s] < 0) program->slots[s].is_constant = false;  // has no place to be written to
    if (first[s] >= 0 && !program->slots[s].pointed) order.push_back(s);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return first[a] < first[b]; });
  struct Busy {
    int until;
    size_t offset, bytes;
  };
  std::vector<Busy> busy;
  std::map<size_t, std::vector<size_t>> free;
  size_t top = 0;
  for (size_t s : order) {
    Slot& slot = program->slots[s];
    const int64_t elements = slot.width == Width::full  ? program->full_capacity
                             : slot.width == Width::row ? program->row_capacity
                                                        : 1;
    // An odd number of lines keeps buffers from falling on the same sets of the cache.
    size_t lines = (static_cast<size_t>(elements) * slot.bytes + 63) / 64;
    if (lines > 8) lines |= 1;
    const size_t bytes = lines * 64;
    for (size_t b = 0; b < busy.size();) {
      if (busy[b].until < first[s]) {
        free[busy[b].bytes].push_back(busy[b].offset);
        busy[b] = busy.back();
        busy.pop_back();
      } else {
        ++b;
      }
    }
    std::vector<size_t>& same = free[bytes];
    if (!slot.is_constant && !same.empty()) {
      slot.offset = same.back();
      same.pop_back();
    } else {
      slot.offset = top;
      top += bytes;
    }
    program->buffers += slot.width == Width::full && !slot.is_constant;
    if (!slot.is_constant) busy.push_back({last[s], slot.offset, bytes});
  }
  bool scattered = false;
  for (const TileLoad& load : program->loads) {
    scattered = scattered || !load.indirects.empty() || !load.exprs.empty();
  }
  const size_t joins = program->joined_offset;
  program->joined_offset = top;
  top += (joins * sizeof(int64_t) + 63) / 64 * 64;
  program->loaded_offset = top;
  top += (program->loads.size() + 63) / 64 * 64;
  program->offsets_offset = top;
  if (scattered) top += static_cast<size_t>(program->full_capacity) * sizeof(int64_t) + 64;
  program->pointers_offset = (top + 63) / 64 * 64;
  program->scratch_bytes = program->pointers_offset + (count + 1) * sizeof(char*);
}

}  // namespace onnx_fusion::cpu
