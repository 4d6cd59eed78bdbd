#include "cpu/pages.h"

#include <algorithm>
#include <cstdint>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace onnx_fusion::cpu {

#if defined(__linux__)
namespace {

constexpr size_t kBatch = 512;  // pages that are looked at together

// Entries of /proc/self/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t kPresent = uint64_t{1} << 63, kSwapped = uint64_t{1} << 62;
constexpr uint64_t kOfFile = uint64_t{1} << 61;  // of a file, or memory shared with others

bool can_return(uint64_t entry) {
  if ((entry & kSwapped) != 0) return false;
  return (entry & kPresent) == 0 || (entry & kOfFile) != 0;
}

}  // namespace

// What a mapping is, /proc/self/maps says too, but reading that takes longer the more mappings
// there are, and it does not tell pages of a private mapping that were written to.
size_t give_back_pages(const void* data, size_t bytes) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page;
  if (first >= end) return 0;
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (map < 0) return 0;
  uint64_t entries[kBatch];
  size_t given = 0;
  for (uintptr_t at = first; at < end;) {
    const size_t count = std::min<size_t>(kBatch, end - at);
    const ssize_t size = static_cast<ssize_t>(count * sizeof(uint64_t));
    if (pread(map, entries, static_cast<size_t>(size), static_cast<off_t>(at * sizeof(uint64_t))) !=
        size) {
      break;
    }
    const size_t good =
        static_cast<size_t>(std::find_if_not(entries, entries + count, can_return) - entries);
    if (good > 0 && madvise(reinterpret_cast<void*>(at * page), good * page, MADV_DONTNEED) != 0) {
      break;
    }
    given += good * page;
    if (good < count) break;
    at += count;
  }
  close(map);
  return given;
}
#else
size_t give_back_pages(const void*, size_t) { return 0; }
#endif

}  // namespace onnx_fusion::cpu
