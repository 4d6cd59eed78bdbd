// A plan while it is made: launches so far, and the memory they hand to each other.
#pragma once

#include <string>
#include <vector>

#include "cuda/nest.h"
#include "cuda/render.h"
#include "cuda/text.h"

namespace onnx_fusion::cuda {

struct Shape {  // of a launch
  int64_t grid[3] = {1, 1, 1};
  unsigned block[3] = {1, 1, 1};
  int64_t shared_bytes = 0;
};

class Work {
 public:
  Work(const BoundProgram& program, const Device& target, Plan* result);

  const BoundProgram& bound;
  const Device& device;
  // A buffer of the workspace that lives from its first launch to its last; its number is a
  // `scratch` of Text.
  int buffer(int64_t bytes);
  // Adds a launch of stage `stage`, or says why the device cannot run it.
  Status add(size_t stage, const std::string& schedule, const Text& text, const Shape& shape,
             int blocks_per_processor = 0);
  // Adds a call of the library; its arguments are as those of Text.
  void add(const Call& call, std::vector<Argument> arguments);
  // Adds an offer and returns its number, or kMostMade if there are so many already.
  size_t offer(const Offer& offer);
  void place();  // offsets for temps and buffers, once all launches are there

 private:
  void append(Launch launch);
  struct Buffer {
    int64_t bytes;
    size_t first, last;
    bool used = false;
    int64_t offset = 0;
  };
  Plan* plan_;
  std::vector<Buffer> buffers_;  // by number: tensors first, of which only temps count
};

constexpr int kThreads = 256;  // of a block, unless there are reasons

// The schedules. Each prints and adds the launches of one group of stores, or says why the device
// cannot run them.
Status plan_points(Work& work, size_t stage, const Nest& nest);  // no reduction
// What follows a dot whose sums lie in a buffer, these letters' slowest first.
Status plan_rest(Work& work, size_t stage, const Nest& nest, int dot, const std::vector<int>& order,
                 int sums);
bool crosses(const Nest& nest);  // do loads and stores run along different letters
Status plan_transpose(Work& work, size_t stage, const Nest& nest);
Status plan_rows(Work& work, size_t stage, const Nest& nest);    // any reductions, in any form

}  // namespace onnx_fusion::cuda
