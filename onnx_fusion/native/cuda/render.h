// From a bound program to CUDA C++ texts and the launches that run them. Pure: no driver, no
// compiler, no state. Sizes and strides are arguments of the kernels, so shapes of one class (the
// same letters with one position, the same divisibility and guards, 32- or 64-bit indices) have
// equal texts: the text is the class, and modules are cached by it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "program/bind.h"
#include "status.h"

namespace onnx_fusion::cuda {

// What makes a product or a convolution: our kernel; a library, and points behind it do what it
// cannot; the same for some rows after the other, whose sums stay in the cache between the two; a
// library, and points behind it do all else.
enum class Maker : uint8_t { kernel, library, library_by_parts, library_sums };
enum class LibraryName : uint8_t { cublaslt, cudnn };
inline constexpr size_t kLibraries = 2;
inline constexpr size_t kMostMade = 64;  // offers of a plan

// The numbers of a device that decide about schedules.
struct Device {
  int arch = 80;                         // 10 * major + minor of the compute capability
  int processors = 108;                  // streaming multiprocessors
  int64_t shared_bytes = 99 << 10;       // of a block, after opting in
  int64_t shared_default = 48 << 10;     // of a block, without
  int64_t max_grid_x = 2147483647, max_grid_yz = 65535;
  bool tf32 = false;                     // may f32 dots round their operands to tf32
  bool aligned = true;  // do all inputs and outputs lie at multiples of 16 bytes
  bool wide = false;  // 64-bit indices for small tensors too, to test them
  int64_t cache_bytes = 40 << 20;  // of the cache that all processors share
  // By number of offer: who makes it, and how many bytes of workspace the calls have (0: as many
  // as they may need).
  std::array<Maker, kMostMade> makers{};
  std::array<size_t, kMostMade> workspaces{};
};

// One kernel. `entry` is unique among kernels with other bodies.
struct Source {
  std::string entry;
  std::string body;
};

struct Argument {
  enum class Kind : uint8_t {
    input,  // device pointer to input `value`
    output,  // device pointer to output `value`
    workspace,  // device pointer to byte `value` of the workspace
    failure,  // device pointer to an int32 (see Plan::may_fail)
    int32,  // `value`
    int64,
  };
  Kind kind;
  int64_t value;
};

// A matrix in memory: elements between neighbours.
struct Strides {
  int64_t row = 0, column = 0, batch = 0;
};

// A product of matrices, which is cuBLASLt's: d = a b + c + bias.
struct Matrices {
  int64_t m = 0, n = 0, k = 0, batches = 1;
  Strides a, b, c, d;
};

inline constexpr size_t kMostSpace = 3;

// Images, or filters, in memory: elements between neighbours.
struct ImageStrides {
  int64_t image = 0, channel = 0, space[kMostSpace] = {};
};

// A convolution, which is cuDNN's: images a, filters b, d = a * b + c + bias.
struct Convolution {
  size_t space = 2;  // axes of space
  int64_t images = 1, groups = 1, channels = 1, filters = 1;  // the last two of each group
  int64_t in[kMostSpace] = {1, 1, 1}, out[kMostSpace] = {1, 1, 1}, taps[kMostSpace] = {1, 1, 1};
  int64_t step[kMostSpace] = {1, 1, 1}, dilation[kMostSpace] = {1, 1, 1};
  int64_t before[kMostSpace] = {}, after[kMostSpace] = {};  // zeros around an image
  ImageStrides a, b, c, d;
};

// A call of a library; if there is a ReLU, the larger of what is computed and 0. Sums are f32.
struct Call {
  size_t offer = 0;  // its number
  std::variant<Matrices, Convolution> sizes;
  DType operands = DType::f32, result = DType::f32;  // of a and b; of all else
  bool tf32 = false, strict = false, relu = false;
  bool has_c = false, has_bias = false;  // the bias has an element for each column or filter
  size_t most_workspace = 0;  // bytes that an algorithm may need
  size_t workspace_bytes = 0;  // that it has
  // The elements between each pointer among the launch's arguments and the first element that
  // counts; they are a, b, d, the workspace, then c and the bias if there are any.
  int64_t at_a = 0, at_b = 0, at_d = 0, at_c = 0, at_bias = 0;

  LibraryName library() const { return static_cast<LibraryName>(sizes.index()); }
};

struct Launch {
  std::optional<Call> call;  // then there is no source, grid or block
  size_t source;  // in Plan::sources
  unsigned grid[3], block[3];
  unsigned shared_bytes;  // dynamic; above Device::shared_default the function must opt in
  std::vector<Argument> arguments;
};

// A product or a convolution that a library can make, too. A stage has as many as it has groups of
// stores that share no work.
struct Offer {
  size_t stage;
  LibraryName library;
  bool parts, sums;  // by parts, too; as sums, too
  int64_t multiplications;
  std::vector<int64_t> sizes;  // what its speed depends on, roughly
  std::vector<int64_t> kind;  // and exactly: types, what the call does, how its tensors lie
};

// What one run is: the launches one after the other on one stream.
struct Plan {
  std::vector<Source> sources;  // no two alike
  std::vector<Launch> launches;
  std::vector<Offer> offers;  // whether taken or not; at most kMostMade
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
