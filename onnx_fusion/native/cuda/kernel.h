// A tile program on a CUDA device. Knows nothing of ONNX Runtime.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cuda/driver.h"
#include "machine.h"
#include "program/program.h"

namespace onnx_fusion::cuda {

struct Settings {
  int ordinal = 0;    // of the device
  std::string nvrtc;  // the compiler's path; empty: where it usually is
  bool ptx = false;   // may what the model carries run as it is
  bool tf32 = false;  // may f32 products round their operands to tf32
  // May products be cuBLASLt's, and convolutions cuDNN's, where that is faster?
  bool blas = true, dnn = true;
  // For checks: libraries make all that is offered to them, and what they cannot is an error.
  bool forced = false;
};

class Bound;     // what is known of one signature of shapes
struct Launches;  // loaded kernels and how to start them; lives as long as its Bound

// One per node of a session. Reentrant.
class Kernel {
 public:
  // `shapes` are program.inputs views, without data; where all dims are known, the kernels are
  // planned, compiled and loaded now. dims[d] is -1 where one is not. `ptx` is what the model
  // carries, perhaps nothing; without settings.ptx none of it is used. Throws ProgramError.
  static std::unique_ptr<Kernel> create(std::shared_ptr<const Program> program,
                                        std::string_view ptx, const Settings& settings,
                                        const TensorView* shapes);
  ~Kernel();

  size_t output_count() const;

  // Shapes to launches. A signature seen before costs a compare of dims. The data of `inputs` is
  // not read.
  Status bind(const TensorView* inputs, std::shared_ptr<const Bound>* bound) const;
  const int64_t* output_dims(const Bound& bound, size_t output, size_t* rank) const;
  // The launches for these inputs and outputs, whose addresses decide how wide accesses may be.
  Status choose(const Bound& bound, const TensorView* inputs, void* const* outputs,
                const Launches** launches) const;
  // What can be run in their place, with less memory; null if there is nothing.
  static const Launches* fallback(const Launches& launches);
  // Is it still open who makes the products of this signature fastest?
  static bool is_open(const Bound& bound);
  // Tries and times the makers on `stream`, waits for it, and lets choose() give the fastest from
  // now on; leaves it open while the stream is captured and, a few times, where `take` gives no
  // memory or these inputs tell nothing. Outputs are written. What `take` gave is not used any more
  // when it is asked again, and behind this.
  void settle(const Bound& bound, const TensorView* inputs, void* const* outputs, void* stream,
              const std::function<void*(size_t bytes)>& take) const;
  // How many bytes of device memory they need besides inputs and outputs.
  static size_t workspace_bytes(const Launches& launches);
  // Starts the kernels on `stream`, and does not wait for them. All pointers are device memory; the
  // workspace lies at a multiple of 256 bytes, and what follows on the stream may use it again. An
  // index out of range in an earlier run is reported by a later one.
  Status run(const Launches& launches, const TensorView* inputs, void* const* outputs,
             void* workspace, void* stream) const;

 private:
  Kernel();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace onnx_fusion::cuda
