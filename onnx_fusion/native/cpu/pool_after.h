// Pooling that a convolution can do itself: the maximum over windows of 2 x 2 pixels, side by side,
// of what it stores and nothing else reads.
#pragma once

#include "cpu/stage.h"

namespace onnx_fusion::cpu {

struct PoolAfter {
  int64_t rows = 1, columns = 1;  // of maxima
  int tensor = -1;  // where they go
  int64_t base = 0, image_step = 0, filter_step = 0, row_step = 0, column_step = 0;
};

// Whether the stage after `stage` is such a pooling; the letters are those of the convolution's
// images (-1 if there is one), filters, lines and pixels.
bool find_pool_after(const BoundProgram& bound, size_t stage, int image, int filter, int down,
                     int along, PoolAfter* pool);

}  // namespace onnx_fusion::cpu
