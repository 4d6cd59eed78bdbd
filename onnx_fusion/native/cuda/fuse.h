// Stages that run over the same points become one: what one hands to the next stays in registers.
#pragma once

#include "program/program.h"

namespace onnx_fusion::cuda {

// A program that means the same, with as few stages as their letters allow, and what enters
// products in the model's half type, if it has one.
Program fuse(Program program);

// The one half type that all floating inputs and outputs have; else, and for strict programs, f32.
DType half_type(const Program& program);
// Gives that type to temps that enter a dot.
void narrow_temps(Program* program);

}  // namespace onnx_fusion::cuda
