#include "cpu/weights.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

namespace onnx_fusion::cpu {
namespace {

// One packing, possibly under way. Its mutex is held while it is packed.
struct Entry {
  std::mutex mutex;
  std::weak_ptr<const PackedWeights> weights;
};

struct Cache {
  std::mutex mutex;
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<Entry>> entries;
};

// Never destroyed: kernels may outlive this library's static objects.
Cache& cache() {
  static Cache& shared = *new Cache;
  return shared;
}

uint64_t mix(uint64_t x, uint64_t y) {
  const unsigned __int128 product = static_cast<unsigned __int128>(x) * y;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

void ContentHash::add(const void* bytes, size_t count) {
  const char* at = static_cast<const char*>(bytes);
  constexpr uint64_t p = 0xa0761d6478bd642fu, q = 0xe7037ed1a0b428dbu;
  constexpr uint64_t r = 0x8ebc6af09c88c6e3u, s = 0x589965cc75374cc3u;
  uint64_t word[4];
  for (size_t left = count; left > 0;) {
    const size_t step = left < sizeof word ? left : sizeof word;
    if (step < sizeof word) std::memset(word, 0, sizeof word);
    std::memcpy(word, at, step);
    a = mix(a ^ word[0] ^ p, word[1] ^ q) + (word[2] ^ (word[3] << 1 | word[3] >> 63));
    b = mix(b ^ word[2] ^ r, word[3] ^ s) + (word[0] ^ (word[1] << 7 | word[1] >> 57));
    at += step;
    left -= step;
  }
  a = mix(a ^ count, p ^ r) + b;
  b = mix(b ^ r, a ^ s) ^ a;
}

namespace {
thread_local ConstantHashes* in_use = nullptr;
}  // namespace

ConstantHashes::Use::Use(ConstantHashes* hashes) : before_(in_use) { in_use = hashes; }

ConstantHashes::Use::~Use() { in_use = before_; }

ContentHash hash_constant(const void* data, size_t bytes) {
  if (in_use != nullptr) {
    const auto found = in_use->known_.find({data, bytes});
    if (found != in_use->known_.end()) return found->second;
  }
  ContentHash hash;
  hash.add(data, bytes);
  if (in_use != nullptr) in_use->known_.emplace(std::make_pair(data, bytes), hash);
  return hash;
}

PackedWeights::~PackedWeights() { std::free(data_); }

std::shared_ptr<const PackedWeights> share_weights(const ContentHash& key, size_t floats,
                                                   const std::function<void(float*)>& pack) {
  Cache& all = cache();
  std::shared_ptr<Entry> entry;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (auto it = all.entries.begin(); it != all.entries.end();) {
      // An entry nobody packs (use_count 1) and nobody holds any more.
      it = it->second.use_count() == 1 && it->second->weights.expired() ? all.entries.erase(it)
                                                                       : std::next(it);
    }
    std::shared_ptr<Entry>& slot = all.entries[{key.a, key.b}];
    if (slot == nullptr) slot = std::make_shared<Entry>();
    entry = slot;
  }
  const std::lock_guard<std::mutex> lock(entry->mutex);
  if (std::shared_ptr<const PackedWeights> found = entry->weights.lock()) return found;
  auto made = std::make_shared<PackedWeights>();
  const size_t bytes = (floats * sizeof(float) + 127) / 64 * 64;
  made->data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (made->data_ == nullptr) return nullptr;
  pack(made->data_);
  entry->weights = made;
  return made;
}

size_t weights_held() {
  Cache& all = cache();
  const std::lock_guard<std::mutex> lock(all.mutex);
  size_t held = 0;
  for (const auto& entry : all.entries) held += entry.second->weights.expired() ? 0 : 1;
  return held;
}

}  // namespace onnx_fusion::cpu
