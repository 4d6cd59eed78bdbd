#include "ort/workspace.h"

#include <algorithm>
#include <cstdint>

namespace onnx_fusion::ort {
namespace {

constexpr size_t kAlignment = 256;

char* align(void* memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  return reinterpret_cast<char*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace

std::shared_ptr<Workspaces> Workspaces::of(const void* session, const Api* api,
                                           OrtAllocator* allocator) {
  // Never destroyed: sessions may outlive the statics of this library.
  static auto& mutex = *new std::mutex;
  static auto& sessions = *new std::map<const void*, std::weak_ptr<Workspaces>>;
  auto made = std::make_shared<Workspaces>(api, allocator);
  std::lock_guard<std::mutex> lock(mutex);
  for (auto it = sessions.begin(); it != sessions.end();) {
    it = it->second.expired() ? sessions.erase(it) : std::next(it);
  }
  std::weak_ptr<Workspaces>& entry = sessions[session];
  if (auto found = entry.lock()) return found;
  entry = made;
  return made;
}

Workspaces::~Workspaces() {
  for (void* data : allocated_) release(data);
  release_allocator(api_, allocator_);
}

void Workspaces::release(void* memory) const {
  if (OrtStatus* status = free_memory(api_, allocator_, memory)) release_status(api_, status);
}

void* Workspaces::Loan::data() const { return align(memory_); }

std::unique_ptr<Workspaces::Loan> Workspaces::lend(size_t bytes) const {
  void* memory = nullptr;
  if (OrtStatus* status = allocate(api_, allocator_, bytes + kAlignment, &memory)) {
    release_status(api_, status);
    return nullptr;
  }
  return std::make_unique<Loan>(*this, memory);
}

Workspaces::Buffer& Workspaces::find(void* stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<Buffer>& buffer = buffers_[stream];
  if (buffer == nullptr) buffer = std::make_unique<Buffer>();
  return *buffer;
}

OrtStatus* Workspaces::take(void* stream, size_t bytes, Use* use) {
  Buffer& buffer = find(stream);
  use->lock = std::unique_lock<std::mutex>(buffer.mutex);
  if (bytes > buffer.bytes) {
    // At least doubled, so that all that was outgrown is no more than what is used.
    const size_t wanted = std::max(bytes, 2 * buffer.bytes);
    void* data = nullptr;
    if (OrtStatus* status = allocate(api_, allocator_, wanted + kAlignment, &data)) return status;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      allocated_.push_back(data);
    }
    buffer.data = align(data);
    buffer.bytes = wanted;
  }
  use->data = buffer.data;
  return nullptr;
}

}  // namespace onnx_fusion::ort
