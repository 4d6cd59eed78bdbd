// Aligned buffers that live between runs: a process-wide pool, reentrant, nothing allocated once
// warm.
#pragma once

#include <cstddef>
#include <utility>

namespace onnx_fusion {

// A buffer of at least `bytes`, aligned to 64, contents undefined; goes back to the pool when
// dropped. data() is null if memory ran out.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(size_t bytes);
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Scratch(Scratch&& other) noexcept { *this = std::move(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Scratch();
  char* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace onnx_fusion
