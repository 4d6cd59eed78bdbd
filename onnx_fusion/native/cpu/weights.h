// Packed weights, shared by all kernels of the process whose packing would be the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "machine.h"

namespace onnx_fusion::cpu {

// 128 bits that name what was hashed.
struct ContentHash {
  uint64_t a = 0x9e3779b97f4a7c15u, b = 0xc2b2ae3d27d4eb4fu;

  void add(const void* bytes, size_t count);
  template <typename T>
  void add_values(const std::vector<T>& values) {
    const uint64_t count = values.size();
    add(&count, sizeof count);
    add(values.data(), values.size() * sizeof(T));
  }
  bool operator==(const ContentHash& other) const { return a == other.a && b == other.b; }
};

// The contents of constants that were hashed before, so that planning another shape of the same
// kernel does not read its weights again. Belongs to one kernel, whose constants never change.
class ConstantHashes {
 public:
  // While it lives, this thread's hash_constant calls use `hashes`.
  class Use {
   public:
    explicit Use(ConstantHashes* hashes);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    ConstantHashes* before_;
  };

  // Once constants are packed nobody reads them but to pack them again: gives back the memory of
  // those that lie in a mapped file.
  void give_back() const;

 private:
  friend ContentHash hash_constant(const TensorView& constant);
  std::map<std::pair<const void*, size_t>, ContentHash> known_;
};

// The hash of a constant's bytes; more can be added to it.
ContentHash hash_constant(const TensorView& constant);

class WeightSlab;

// Floats aligned to 64 bytes; freed with the last reference.
class PackedWeights {
 public:
  PackedWeights() = default;
  ~PackedWeights();
  PackedWeights(const PackedWeights&) = delete;
  PackedWeights& operator=(const PackedWeights&) = delete;
  const float* data() const { return data_; }

 private:
  friend std::shared_ptr<const PackedWeights> share_weights(
      const ContentHash& key, size_t floats, const std::function<void(float*)>& pack);
  bool allocate(size_t bytes);

  float* data_ = nullptr;
  size_t bytes_ = 0;
  std::shared_ptr<WeightSlab> slab_;  // null: of its own
};

// What `pack` writes into `floats` floats: computed once per key while anyone holds it. Keys that
// are equal must mean equal contents. Null if memory ran out.
std::shared_ptr<const PackedWeights> share_weights(const ContentHash& key, size_t floats,
                                                   const std::function<void(float*)>& pack);

}  // namespace onnx_fusion::cpu
