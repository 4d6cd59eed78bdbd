// What joining the steps of a segment knows of them.
#pragma once

#include <map>
#include <vector>

#include "cpu/compile.h"

namespace onnx_fusion::cpu {

struct Joining {
  TileProgram& program;
  const std::vector<int>& uses;  // by slot
  std::vector<Step>& steps;
  std::map<int, size_t> made;  // slot: the step that makes it
  std::vector<uint8_t> gone;   // by step

  Width width(int slot) const { return program.slots[static_cast<size_t>(slot)].width; }
  bool is_number(int slot, float value) const;
  bool is_f32_full(const Step& step) const;
  // The step that makes a slot used so many times, or null.
  Step* maker(int slot, int times = 1) const;
  void drop(const Step* step) { gone[static_cast<size_t>(step - steps.data())] = 1; }
};

// Whether step i took in steps before it, and is a pass or idiom that does their work, too.
bool join_functions(Joining& at, size_t i);
bool join_rows(Joining& at, size_t i);

}  // namespace onnx_fusion::cpu
