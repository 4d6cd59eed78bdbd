// Outputs too large to be found in a cache again are written past them: a plain store first reads
// the line that it overwrites, and throws out others.
#pragma once

#include <cstdint>

namespace onnx_fusion::cpu {

// Tensors of so many bytes and more are written so; what is bound later sees a change.
int64_t past_cache_bytes();
void set_past_cache_bytes(int64_t bytes);  // negative: as the machine's caches say

}  // namespace onnx_fusion::cpu
