#include "cpu/weights.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "cpu/pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace onnx_fusion::cpu {

// Where many packings lie one after the other, on huge pages where the system has them: a core
// reads weights from memory a fifth faster so, since its prefetchers stop at the end of a page.
class WeightSlab {
 public:
  static constexpr size_t kPage = size_t{1} << 21;
  static constexpr size_t kBytes = size_t{1} << 25;   // untouched pages cost nothing
  static constexpr size_t kLeast = size_t{1} << 16;  // of a packing that goes into a slab

  // Null if memory ran out.
  static std::shared_ptr<WeightSlab> make(size_t bytes) {
    const size_t all = std::max(kBytes, (bytes + kPage - 1) / kPage * kPage);
    void* data = std::aligned_alloc(kPage, all);
    if (data == nullptr) return nullptr;
#if defined(__linux__)
    madvise(data, all, MADV_HUGEPAGE);
#endif
    return std::shared_ptr<WeightSlab>(new WeightSlab(static_cast<char*>(data), all));
  }
  ~WeightSlab() { std::free(data_); }
  WeightSlab(const WeightSlab&) = delete;
  WeightSlab& operator=(const WeightSlab&) = delete;

  // Null if not so much is left.
  char* take(size_t bytes) {
    if (size_ - used_ < bytes) return nullptr;
    char* taken = data_ + used_;
    used_ += bytes;
    return taken;
  }

  // Returns the pages that lie inside a packing whose kernels are gone.
  static void give_back(char* data, size_t bytes) {
#if defined(__linux__)
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
#else
    (void)data;
    (void)bytes;
#endif
  }

 private:
  WeightSlab(char* data, size_t size) : data_(data), size_(size) {}
  char* data_;
  size_t size_, used_ = 0;
};

namespace {

// One packing, possibly under way. Its mutex is held while it is packed.
struct Entry {
  std::mutex mutex;
  std::weak_ptr<const PackedWeights> weights;
};

struct Cache {
  std::mutex mutex;
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<Entry>> entries;
  std::weak_ptr<WeightSlab> slab;  // the last one
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
constexpr size_t kLeastGiven = size_t{1} << 16;  // bytes of a constant worth the system calls
}  // namespace

ConstantHashes::Use::Use(ConstantHashes* hashes) : before_(in_use) { in_use = hashes; }

ConstantHashes::Use::~Use() { in_use = before_; }

void ConstantHashes::give_back() const {
  for (const auto& [range, hash] : known_) {
    if (range.second >= kLeastGiven) give_back_pages(range.first, range.second);
  }
}

ContentHash hash_constant(const TensorView& constant) {
  const void* const data = constant.data;
  const size_t bytes = bytes_of(constant);
  if (in_use != nullptr) {
    const auto found = in_use->known_.find({data, bytes});
    if (found != in_use->known_.end()) return found->second;
  }
  ContentHash hash;
  hash.add(data, bytes);
  if (in_use != nullptr) in_use->known_.emplace(std::make_pair(data, bytes), hash);
  return hash;
}

PackedWeights::~PackedWeights() {
  if (slab_ == nullptr) {
    std::free(data_);
  } else {
    WeightSlab::give_back(reinterpret_cast<char*>(data_), bytes_);
  }
}

bool PackedWeights::allocate(size_t bytes) {
  bytes_ = bytes;
  if (bytes < WeightSlab::kLeast) {
    data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
    return data_ != nullptr;
  }
  Cache& all = cache();
  const std::lock_guard<std::mutex> lock(all.mutex);
  slab_ = all.slab.lock();
  data_ = slab_ == nullptr ? nullptr : reinterpret_cast<float*>(slab_->take(bytes));
  if (data_ != nullptr) return true;
  slab_ = WeightSlab::make(bytes);
  if (slab_ == nullptr) return false;
  all.slab = slab_;
  data_ = reinterpret_cast<float*>(slab_->take(bytes));
  return true;
}

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
  if (!made->allocate((floats * sizeof(float) + 127) / 64 * 64)) return nullptr;
  pack(made->data_);
  entry->weights = made;
  return made;
}

}  // namespace onnx_fusion::cpu
