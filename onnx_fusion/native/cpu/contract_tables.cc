#include "cpu/contract_tables.h"

#include <algorithm>
#include <limits>
#include <map>

namespace onnx_fusion::cpu {
namespace {

constexpr int64_t kMaxCoordinate = int64_t{1} << 29;
constexpr int64_t kMaxTable = int64_t{1} << 28;
constexpr int kMaxSegments = 4;

// table[i] = base + the form's letters of `axis` at its flat index i.
template <typename T>
void fill_table(const BoundStage& stage, const Axis& axis, const Linear& form, int64_t base,
                std::vector<T>* table) {
  const int64_t count = axis_extent(stage, axis);
  table->resize(static_cast<size_t>(count));
  if (count == 0) return;
  T* out = table->data();
  out[0] = static_cast<T>(base);
  int64_t filled = 1;
  for (int place = axis.count - 1; place >= 0; --place) {
    const int letter = axis.letters[place];
    const int64_t extent = stage.extents[letter], coef = form.coef[letter];
    for (int64_t x = 1; x < extent; ++x) {
      for (int64_t i = 0; i < filled; ++i) {
        out[x * filled + i] = static_cast<T>(out[i] + x * coef);
      }
    }
    filled *= extent;
  }
}

void list_values(TableGuard* guard) {
  for (int32_t value : guard->inner) {
    const auto found = std::find(guard->values.begin(), guard->values.end(), value);
    if (found == guard->values.end()) {
      if (guard->values.size() == kMaxGuardValues) {
        guard->values.clear();
        guard->choice.clear();
        return;
      }
      guard->choice.push_back(static_cast<uint8_t>(guard->values.size()));
      guard->values.push_back(value);
    } else {
      guard->choice.push_back(static_cast<uint8_t>(found - guard->values.begin()));
    }
  }
}

bool depends_on(const Linear& form, const Axis& axis) {
  return std::any_of(axis.letters, axis.letters + axis.count,
                     [&](uint8_t letter) { return form.coef[letter] != 0; });
}

bool is_small(const BoundStage& stage, const Linear& form) {
  int64_t reach = form.base < 0 ? -form.base : form.base;
  for (int l = 0; l < kMaxLetters; ++l) {
    const int64_t coef = form.coef[l] < 0 ? -form.coef[l] : form.coef[l];
    if (coef == 0) continue;
    if (coef > kMaxCoordinate || stage.extents[l] > kMaxCoordinate) return false;
    reach += coef * stage.extents[l];
    if (reach > kMaxCoordinate) return false;
  }
  return true;
}

}  // namespace

bool build_tables(const BoundStage& stage, const BoundMap& map, float fill, const Axis& batch,
                  const Axis& outer, const Axis& inner, OperandTables* tables) {
  if (!map.linear || map.indirect) return false;
  for (const Axis* axis : {&batch, &outer, &inner}) {
    if (axis_extent(stage, *axis) > kMaxTable) return false;
  }
  tables->fill = fill;
  tables->guards.clear();
  for (const BoundIndex& dim : map.dims) {
    if (!dim.guarded) continue;
    if (static_cast<int>(tables->guards.size()) == kMaxGuards || depends_on(dim.form, batch) ||
        !is_small(stage, dim.form) || dim.extent > kMaxCoordinate) {
      return false;
    }
    TableGuard guard;
    guard.extent = static_cast<uint32_t>(dim.extent);
    fill_table(stage, outer, dim.form, dim.form.base, &guard.outer);
    fill_table(stage, inner, dim.form, 0, &guard.inner);
    list_values(&guard);
    tables->guards.push_back(std::move(guard));
  }
  fill_table(stage, batch, map.address, map.address.base, &tables->batch);
  fill_table(stage, outer, map.address, 0, &tables->outer);
  fill_table(stage, inner, map.address, 0, &tables->inner);
  return true;
}

std::vector<uint8_t> find_inside(const OperandTables& tables) {
  std::vector<uint8_t> inside(tables.outer.size(), 1);
  for (const TableGuard& guard : tables.guards) {
    if (guard.inner.empty()) continue;
    const auto [low, high] = std::minmax_element(guard.inner.begin(), guard.inner.end());
    for (size_t i = 0; i < inside.size(); ++i) {
      if (guard.outer[i] + *low < 0 ||
          guard.outer[i] + *high >= static_cast<int64_t>(guard.extent)) {
        inside[i] = 0;
      }
    }
  }
  return inside;
}

std::vector<int64_t> number_slots(const OperandTables& tables, int64_t floats,
                                  std::vector<int64_t>* slots) {
  std::map<int64_t, int64_t> seen;
  std::vector<int64_t> begins;
  for (const int64_t begin : tables.batch) {
    const auto [it, fresh] = seen.emplace(begin, static_cast<int64_t>(begins.size()) * floats);
    if (fresh) begins.push_back(begin);
    slots->push_back(it->second);
  }
  return begins;
}

ColumnTables build_columns(const std::vector<int64_t>& outer, int lanes, int64_t padded) {
  ColumnTables tables;
  const int64_t count = static_cast<int64_t>(outer.size());
  const auto split = [&](int64_t begin, int64_t end, int64_t step) {
    const size_t first = tables.segments.size();
    for (int64_t at = begin; at < end;) {
      int64_t stop = at + 1;
      while (stop < end && outer[stop] - outer[stop - 1] == step) ++stop;
      const uint32_t mask = ((1u << (stop - begin)) - 1u) & ~((1u << (at - begin)) - 1u);
      tables.segments.push_back({outer[at] - step * (at - begin), mask});
      at = stop;
    }
    return static_cast<int32_t>(tables.segments.size() - first);
  };
  for (int64_t begin = 0; begin < padded; begin += lanes) {
    const int64_t end = std::max(begin, std::min(begin + lanes, count));
    ColumnVector vector{kOneRun, static_cast<int32_t>(tables.segments.size()), 0,
                        static_cast<int32_t>(end - begin)};
    vector.segments = split(begin, end, 1);
    if (vector.segments != 1) vector.kind = kRuns;
    if (vector.segments > kMaxSegments || (vector.segments > 1 && vector.segments > lanes / 4)) {
      tables.segments.resize(vector.segment);
      vector.kind = kEvenRuns;
      vector.segments = split(begin, end, 2);
      if (vector.segments > kMaxSegments) {
        tables.segments.resize(vector.segment);
        vector.kind = kScattered;
        vector.segments = 0;
      }
    }
    tables.vectors.push_back(vector);
  }
  return tables;
}

RunTables build_runs(const OperandTables& tables) {
  RunTables result;
  const std::vector<int64_t>& inner = tables.inner;
  const int64_t count = static_cast<int64_t>(inner.size());
  if (count > 1) result.step = inner[1] - inner[0];
  for (int64_t begin = 0; begin < count;) {
    int64_t end = begin + 1;
    while (end < count && inner[end] - inner[end - 1] == result.step &&
           std::all_of(
               tables.guards.begin(), tables.guards.end(),
               [&](const TableGuard& guard) { return guard.inner[end] == guard.inner[begin]; })) {
      ++end;
    }
    result.runs.push_back({begin, end});
    begin = end;
  }
  return result;
}

}  // namespace onnx_fusion::cpu
