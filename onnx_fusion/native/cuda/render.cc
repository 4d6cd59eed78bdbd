// A plan: the stages' launches one after the other, and where temps lie.
#include "cuda/render.h"

#include <algorithm>

#include "cuda/attention.h"
#include "cuda/call.h"
#include "cuda/contract.h"
#include "cuda/work.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kAlignment = 256;

std::string number(int64_t value) { return std::to_string(value); }

}  // namespace

Work::Work(const BoundProgram& program, const Device& target, Plan* result)
    : bound(program), device(target), plan_(result) {
  for (const BoundTensor& tensor : bound.tensors) {
    buffers_.push_back({tensor.elements * static_cast<int64_t>(dtype_size(tensor.dtype)), 0, 0});
  }
}

int Work::buffer(int64_t bytes) {
  buffers_.push_back({bytes, 0, 0});
  return static_cast<int>(buffers_.size()) - 1;
}

Status Work::add(size_t stage, const std::string& schedule, const Text& text, const Shape& shape,
                 int blocks_per_processor) {
  const std::string where = "stage on line " + number(bound.program->stages[stage].line) + ": ";
  const int64_t most[] = {device.max_grid_x, device.max_grid_yz, device.max_grid_yz};
  for (int d = 0; d < 3; ++d) {
    if (shape.grid[d] > most[d]) {
      return Status(where + "needs a grid of " + number(shape.grid[d]) +
                    " blocks, the device has " + number(most[d]));
    }
  }
  if (shape.shared_bytes > device.shared_bytes) {
    return Status(where + "needs " + number(shape.shared_bytes) +
                  " bytes of shared memory in a block, the device has " +
                  number(device.shared_bytes));
  }
  const unsigned threads = shape.block[0] * shape.block[1] * shape.block[2];
  Source source = text.finish(schedule, static_cast<int>(threads), blocks_per_processor);
  const auto same = std::find_if(
      plan_->sources.begin(), plan_->sources.end(),
      [&](const Source& s) { return s.entry == source.entry && s.body == source.body; });
  Launch launch{};
  launch.source = static_cast<size_t>(same - plan_->sources.begin());
  if (same == plan_->sources.end()) plan_->sources.push_back(std::move(source));
  for (int d = 0; d < 3; ++d) {
    launch.grid[d] = static_cast<unsigned>(shape.grid[d]);
    launch.block[d] = shape.block[d];
  }
  launch.shared_bytes = static_cast<unsigned>(shape.shared_bytes);
  launch.arguments = text.arguments;
  append(std::move(launch));
  return Status();
}

void Work::add(const Call& call, std::vector<Argument> arguments) {
  Launch launch{};
  launch.call = call;
  launch.arguments = std::move(arguments);
  append(std::move(launch));
}

size_t Work::offer(const Offer& offer) {
  const size_t number = plan_->offers.size();
  if (number < kMostMade) plan_->offers.push_back(offer);
  return number;
}

void Work::append(Launch launch) {
  for (const Argument& argument : launch.arguments) {
    plan_->may_fail = plan_->may_fail || argument.kind == Argument::Kind::failure;
    if (argument.kind != Argument::Kind::workspace) continue;
    Buffer& buffer = buffers_[static_cast<size_t>(argument.value)];
    if (!buffer.used) buffer.first = plan_->launches.size();
    buffer.used = true;
    buffer.last = plan_->launches.size();
  }
  plan_->launches.push_back(std::move(launch));
}

void Work::place() {
  std::vector<size_t> order;
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (!buffers_[i].used) continue;
    Buffer& b = buffers_[i];
    b.bytes = (b.bytes + kAlignment - 1) / kAlignment * kAlignment;
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return buffers_[a].bytes > buffers_[b].bytes; });
  int64_t total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    Buffer& buffer = buffers_[order[i]];
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t j = 0; j < i; ++j) {
        const Buffer& other = buffers_[order[j]];
        if (buffer.first > other.last || other.first > buffer.last ||
            buffer.offset >= other.offset + other.bytes ||
            other.offset >= buffer.offset + buffer.bytes) {
          continue;
        }
        buffer.offset = other.offset + other.bytes;
        moved = true;
      }
    }
    total = std::max(total, buffer.offset + buffer.bytes);
  }
  plan_->workspace_bytes = static_cast<size_t>(total);
  for (Launch& launch : plan_->launches) {
    for (Argument& argument : launch.arguments) {
      if (argument.kind == Argument::Kind::workspace) {
        argument.value = buffers_[static_cast<size_t>(argument.value)].offset;
      }
    }
  }
}

namespace {

constexpr size_t kAttentionStages = 3;

Status plan_stage(Work& work, size_t stage) {
  for (const std::vector<int>& stores : group_stores(work.bound, stage)) {
    const Nest nest(work.bound, stage, stores);
    bool reduces = false;
    for (size_t i = 0; i < nest.lines(); ++i) {
      const int line = static_cast<int>(i);
      reduces = reduces || (nest.reduces(line) && !nest.nothing(line));
    }
    Product product;
    const bool multiplies = reduces && find_product(nest, work.device, &product);
    bool called = false;
    Status status;
    if (reduces) {
      status = plan_library(work, stage, nest, multiplies ? &product : nullptr, &called);
      if (!status.ok()) return status;
      if (called) continue;
      status = multiplies ? plan_product(work, stage, nest, product) : plan_rows(work, stage, nest);
    } else {
      status = crosses(nest) && !work.device.wide ? plan_transpose(work, stage, nest)
                                                  : plan_points(work, stage, nest);
    }
    if (!status.ok()) return status;
  }
  return Status();
}

// Plans three stages as one launch, if they are an attention.
Status attend(Work& work, size_t stage, bool* attends) {
  if (stage + kAttentionStages > work.bound.stages.size()) return Status();
  std::vector<std::vector<int>> groups[kAttentionStages];
  for (size_t i = 0; i < kAttentionStages; ++i) {
    groups[i] = group_stores(work.bound, stage + i);
    if (groups[i].size() != 1) return Status();
  }
  const Nest scores(work.bound, stage, groups[0][0]), softmax(work.bound, stage + 1, groups[1][0]);
  const Nest result(work.bound, stage + 2, groups[2][0]);
  Attention attention;
  *attends = find_attention(scores, softmax, result, work.device, &attention);
  return *attends ? plan_attention(work, stage, scores, softmax, result, attention) : Status();
}

}  // namespace

Status plan(const BoundProgram& bound, const Device& device, Plan* result) {
  *result = Plan();
  Work work(bound, device, result);
  for (size_t s = 0; s < bound.stages.size(); ++s) {
    bool attends = false;
    Status status = attend(work, s, &attends);
    if (status.ok() && !attends) status = plan_stage(work, s);
    if (!status.ok()) return status;
    if (attends) s += kAttentionStages - 1;
  }
  work.place();
  return Status();
}

}  // namespace onnx_fusion::cuda
