// From a bound program to CUDA C++ texts and the launches that run them. Pure: no driver, no
// compiler, no state. Sizes and strides are arguments of the kernels, so shapes of one class (the
// same letters with one position, the same divisibility and guards, 32- or 64-bit indices) have
// equal texts: the text is the class, and modules are cached by it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "program/bind.h"
#include "status.h"

namespace onnx_fusion::cuda {

// What makes a product: our kernel; cuBLASLt, and points behind it do what it cannot; the same for
// some rows after the other, whose sums stay in the cache between the two.
enum class Maker : uint8_t { kernel, library, library_by_parts };
inline constexpr size_t kMostMade = 16;  // stages that may have another maker than our kernel

// The numbers of a device that decide about schedules.
struct Device {
  int arch = 80;                         // 10 * major + minor of the compute capability
  int processors = 108;                  // streaming multiprocessors
  int64_t shared_bytes = 99 << 10;       // of a block, after opting in
  int64_t shared_default = 48 << 10;     // of a block, without
  int64_t max_grid_x = 2147483647, max_grid_yz = 65535;
  bool tf32 = false;                     // may f32 dots round their operands to tf32
  bool aligned = true;                   // do all inputs and outputs lie at multiples of 16 bytes
  bool wide = false;                     // 64-bit indices for small tensors too, to test them
  int64_t cache_bytes = 40 << 20;        // of the cache that all processors share
  std::array<Maker, kMostMade> makers{};  // of products, by stage
};

// One kernel. `entry` is unique among kernels with other bodies.
struct Source {
  std::string entry;
  std::string body;
};

struct Argument {
  enum class Kind : uint8_t {
    input,      // device pointer to input `value`
    output,     // device pointer to output `value`
    workspace,  // device pointer to byte `value` of the workspace
    failure,    // device pointer to an int32 (see Plan::may_fail)
    int32,      // `value`
    int64,
  };
  Kind kind;
  int64_t value;
};

// A matrix in memory: elements between neighbours.
struct Strides {
  int64_t row = 0, column = 0, batch = 0;
};

// A call of cuBLASLt: d = a b + c + bias, or the larger of that and 0. Sums are f32.
struct Call {
  size_t stage = 0;
  DType operands = DType::f32, result = DType::f32;  // of a and b; of all else
  bool tf32 = false, relu = false;
  bool has_c = false, has_bias = false;  // the bias has an element for each column
  int64_t m = 0, n = 0, k = 0, batches = 1;
  Strides a, b, c, d;
  size_t workspace_bytes = 0;
  // The elements between each pointer among the launch's arguments and the first element that
  // counts; they are a, b, d, the workspace, then c and the bias if there are any.
  int64_t at_a = 0, at_b = 0, at_d = 0, at_c = 0, at_bias = 0;
};

struct Launch {
  std::optional<Call> call;  // then there is no source, grid or block
  size_t source;             // in Plan::sources
  unsigned grid[3], block[3];
  unsigned shared_bytes;  // dynamic; above Device::shared_default the function must opt in
  std::vector<Argument> arguments;
};

// A product that cuBLASLt can make, too.
struct Offer {
  size_t stage;
  int64_t m, n, k, batches;
  bool parts;  // by parts, too
};

// What one run is: the launches one after the other on one stream.
struct Plan {
  std::vector<Source> sources;  // no two alike
  std::vector<Launch> launches;
  std::vector<Offer> offers;   // whether taken or not
  size_t workspace_bytes = 0;  // aligned to 256 bytes
  // Some launch has a failure argument. Its int32 is 0 before a run; a kernel that meets an index
  // out of range (docs/tile_program.md, section 5) stores its line number there and goes on.
  bool may_fail = false;
};

// Fails where a device cannot run the program with these shapes, with the numbers.
Status plan(const BoundProgram& bound, const Device& device, Plan* plan);

// The text to compile: what the bodies need, then the bodies. The same for NVRTC, nvcc and, with
// ONNX_FUSION_EMULATED defined, a host compiler.
std::string unit(const Source* sources, size_t count);

// JSON, for tests and scripts.
std::string describe(const Plan& plan);

}  // namespace onnx_fusion::cuda
