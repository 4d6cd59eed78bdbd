// What bands are made of (band.h): stages cut along one letter, and the lines that they need of
// each other.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/stage.h"

namespace onnx_fusion {

inline constexpr size_t kMostParts = 6;

struct Lines {
  int64_t begin = 0, end = 0;
};

// A stage cut along one letter. Of the image that the stage before makes, its line p reads the
// lines step * p + low to step * p + high.
struct Part {
  size_t stage = 0;
  int letter = -1;
  int64_t lines = 0;
  int64_t step = 0, low = 0, high = 0;
  struct Move {
    size_t tensor;
    int64_t bytes;  // from one line of the stage to the next
  };
  std::vector<Move> moves;
  int64_t fixed_bytes = 0;  // of tensors that every line reads
  // The image that it makes, unless it is the last part.
  size_t image = 0;
  int64_t image_lines = 0, line_bytes = 0;
};

// From `stage` on, as many parts as can run band by band and are worth it; fewer than two if none.
std::vector<Part> find_parts(const BoundProgram& bound, size_t stage, const TensorView* constants,
                             size_t count);

// Lines of the last part in a band; 0 if not one fits, and all if bands are not worth it.
int64_t choose_height(const std::vector<Part>& parts);

// The lines of each part that lines [begin, end) of the last one need.
void find_needs(const std::vector<Part>& parts, int64_t begin, int64_t end, Lines* needs);

// The most lines of each part's image that bands of so many lines need at once.
void find_heights(const std::vector<Part>& parts, int64_t height, int64_t* lines);

// Whether lines [first, first + lines) of the part read outside a tensor.
bool is_border(const BoundProgram& bound, const Part& part, int64_t first, int64_t lines);

// The program with these lines of the part as if they were all.
std::unique_ptr<BoundProgram> cut(const BoundProgram& bound, const Part& part, int64_t first,
                                  int64_t lines);

}  // namespace onnx_fusion
