// Constant operands of a contraction, packed for good.
#include <algorithm>
#include <cstring>

#include "cpu/contract_plan.h"

namespace onnx_fusion::cpu {
namespace {

void name_layout(ContentHash* hash, const OperandTables& tables, const std::vector<int64_t>& begins,
                 int64_t panel, int64_t unit, char kind) {
  hash->add(&kind, sizeof kind);
  hash->add(&panel, sizeof panel);
  hash->add(&unit, sizeof unit);
  hash->add(&tables.fill, sizeof tables.fill);
  hash->add_values(begins);
  hash->add_values(tables.outer);
  hash->add_values(tables.inner);
  for (const TableGuard& guard : tables.guards) {
    hash->add(&guard.extent, sizeof guard.extent);
    hash->add_values(guard.outer);
    hash->add_values(guard.inner);
  }
}

// out[k * width + i] for count columns of a panel, of elements that lie one after the other along
// the columns, or along k.
bool pack_quickly(const float* data, const OperandTables& tables, bool along_k,
                  const std::vector<Run>& runs, int64_t first, int64_t count, int64_t width,
                  float* out) {
  const int64_t* outer = tables.outer.data() + first;
  const int64_t step = count > 1 ? outer[1] - outer[0] : 1;
  for (int64_t i = 2; i < count; ++i) {
    if (outer[i] - outer[i - 1] != step) return false;
  }
  if (step == 1) {
    for (const int64_t inner : tables.inner) {
      std::memcpy(out, data + outer[0] + inner, static_cast<size_t>(count) * sizeof(float));
      std::fill(out + count, out + width, 0.0f);
      out += width;
    }
    return true;
  }
  if (!along_k) return false;
  for (const Run& run : runs) {
    gemm_kernels().transpose(data + outer[0] + tables.inner[run.begin], step, count,
                             run.end - run.begin, out + run.begin * width, width);
  }
  for (int64_t k = 0; count < width && k < static_cast<int64_t>(tables.inner.size()); ++k) {
    std::fill(out + k * width + count, out + (k + 1) * width, 0.0f);
  }
  return true;
}

}  // namespace

void pack_panels(const float* data, const OperandTables& tables, int64_t panel, int64_t unit,
                 float* out) {
  const int64_t outers = static_cast<int64_t>(tables.outer.size());
  const int64_t depth = static_cast<int64_t>(tables.inner.size());
  const RunTables runs = build_runs(tables);
  const bool plain = tables.guards.empty();
  const bool along = runs.step == 1 && static_cast<int64_t>(runs.runs.size()) * 4 <= depth;
  for (int64_t first = 0; first < outers; first += panel) {
    const int64_t count = std::min(panel, outers - first);
    const int64_t width = (count + unit - 1) / unit * unit;
    if (plain && pack_quickly(data, tables, along, runs.runs, first, count, width, out)) {
      out += depth * width;
      continue;
    }
    for (int64_t k = 0; k < depth; ++k, out += width) {
      const float* base = data + tables.inner[k];
      for (int64_t i = 0; i < count; ++i) {
        out[i] = tables.guards.empty() || is_inside(tables, first + i, k)
                     ? base[tables.outer[first + i]]
                     : tables.fill;
      }
      std::fill(out + count, out + width, 0.0f);
    }
  }
}

namespace {

void cache_side(Side* side, const TensorView& constant, int64_t panel, int64_t unit, char kind) {
  const int64_t outers = static_cast<int64_t>(side->tables.outer.size());
  const int64_t depth = static_cast<int64_t>(side->tables.inner.size());
  const int64_t slot_floats = (outers + panel - 1) / panel * panel * depth;
  const std::vector<int64_t> begins = number_slots(side->tables, slot_floats, &side->slot);
  ContentHash key = hash_constant(constant);
  name_layout(&key, side->tables, begins, panel, unit, kind);
  const float* data = static_cast<const float*>(constant.data);
  const size_t floats = begins.size() * static_cast<size_t>(slot_floats);
  side->weights = share_weights(key, floats, [&](float* out) {
    for (int64_t begin : begins) {
      pack_panels(data + begin, side->tables, panel, unit, out);
      out += slot_floats;
    }
  });
  if (side->weights == nullptr) {
    side->slot.clear();
    side->source = Source::tables;
    return;
  }
  side->source = Source::cached;
  side->tables = OperandTables{};
}

}  // namespace

void ContractPlan::cache_rows(const TensorView& constant) {
  cache_side(&rows_side_, constant, tile_rows_, tile_rows_, 'r');
}

void ContractPlan::cache_columns(const TensorView& constant) {
  cache_side(&columns_side_, constant, width_, unit_, 'c');
  if (columns_side_.source != Source::cached) return;
  column_tables_ = ColumnTables{};
  column_guards_.clear();
}

}  // namespace onnx_fusion::cpu
