// What is asked of the CUDA side where a model is planned: no device is needed.
#pragma once

#include <string>

#include "machine.h"
#include "program/program.h"

namespace onnx_fusion::cuda {

// Why a device cannot run the program because it reads an input on the host; empty if it does not.
std::string host_refusal(const Program& program);

// Why a device of the kind that PTX is made for cannot run the program; empty if it can, as far as
// that shows at the shapes that are tried for unknown dims.
std::string refusal(const Program& program);

// PTX for the program with inputs of these shapes, as a node carries it; unknown dims are -1, and
// are tried as a few sizes. `nvrtc` is as Compiler::get has it. Throws ProgramError.
std::string make_ptx(const Program& program, const TensorView* shapes, const std::string& nvrtc);

}  // namespace onnx_fusion::cuda
