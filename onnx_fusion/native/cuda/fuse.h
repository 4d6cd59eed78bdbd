// Stages that run over the same points become one: what one hands to the next stays in registers.
#pragma once

#include "program/program.h"

namespace onnx_fusion::cuda {

// A program that means the same, with as few stages as their letters allow.
Program fuse(Program program);

}  // namespace onnx_fusion::cuda
