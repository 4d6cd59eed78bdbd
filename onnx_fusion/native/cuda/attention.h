// A product, a softmax of its rows and a product with the result, as one launch.
#pragma once

#include "cuda/contract.h"

namespace onnx_fusion::cuda {

struct Attention {
  Product scores, result;
  int scores_load = -1;  // the softmax stage's load of the scores
  int logits = -1;       // its line whose softmax it is
  int weights_load = -1; // the last stage's load of the softmax
};

// Do three stages, each with one store, hand their rows on so that no score needs to be in memory?
// What they hand on must be temps that nothing else loads.
bool find_attention(const Nest& scores, const Nest& softmax, const Nest& result,
                    const Device& device, Attention* attention);

Status plan_attention(Work& work, size_t stage, const Nest& scores, const Nest& softmax,
                      const Nest& result, const Attention& attention);

}  // namespace onnx_fusion::cuda
