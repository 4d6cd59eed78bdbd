// Memory that can be read from a file again.
#pragma once

#include <cstddef>

namespace onnx_fusion::cpu {

// Takes the whole pages inside `bytes` bytes out of this process if the system can read every one
// of them from a file again (or shares it with others), as it can where a file is mapped and was
// not written to; who reads them later gets the same bytes. Stops at the first that it cannot.
// Returns how many bytes were let go, counting those that were not in memory.
size_t give_back_pages(const void* data, size_t bytes);

}  // namespace onnx_fusion::cpu
