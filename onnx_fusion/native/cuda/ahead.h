// Texts compiled before they are needed, by processes of their own: NVRTC compiles one text at a
// time in a process. What they make lies in the cache's folder.
#pragma once

#include <string>
#include <string_view>

#include "cuda/kernel.h"

namespace onnx_fusion::cuda {

// Starts to compile what a node of this program, whose text this is, will ask for with inputs of
// these shapes (as Kernel::create has them), and returns. Nothing happens where dims are unknown,
// no device is there, or the cache cannot be used; a failure is no error: the node meets it again.
void compile_ahead(const Program& program, std::string_view text, const Settings& settings,
                   const TensorView* shapes) noexcept;

// Returns when no process is at work on the cache entry of this key. What none has begun is not
// waited for, and left to the caller.
void await_ahead(const std::string& folder, const std::string& key);

// A compiler's process: reads texts from `socket`, and answers each when it is stored, until that
// ends.
int serve_compiler(int socket, const std::string& nvrtc, int arch, const std::string& folder);

}  // namespace onnx_fusion::cuda
