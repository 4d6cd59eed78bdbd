#include "cuda/cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace onnx_fusion::cuda {
namespace {

constexpr const char* kVariable = "ONNX_FUSION_CACHE";
constexpr char kMagic[8] = {'o', 'n', 'f', 'u', 's', 'e', 'c', '1'};
constexpr const char* kSuffix = ".bin";
constexpr size_t kLargest = size_t{64} << 20;  // of a file
constexpr size_t kMostFiles = 4096;            // then the oldest half goes

struct Header {
  char magic[8];
  uint64_t key_bytes, content_bytes;
  uint64_t check[2];  // of key and content
};

struct Hash {
  uint64_t a = 0x243f6a8885a308d3u, b = 0x13198a2e03707344u;

  static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
  }
  void add(std::string_view text) {
    for (size_t i = 0; i < text.size(); i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, text.data() + i, std::min<size_t>(8, text.size() - i));
      a = mix(a ^ word);
      b = mix(b + word * 0x9e3779b97f4a7c15u) ^ a;
    }
    a = mix(a ^ text.size());
    b = mix(b + text.size());
  }
};

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int descriptor() const { return descriptor_; }

  bool read_all(void* data, size_t bytes) const {
    char* at = static_cast<char*>(data);
    while (bytes > 0) {
      const ssize_t got = ::read(descriptor_, at, bytes);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      at += got;
      bytes -= static_cast<size_t>(got);
    }
    return true;
  }
  bool write_all(const void* data, size_t bytes) const {
    const char* at = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t put = ::write(descriptor_, at, bytes);
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return false;
      at += put;
      bytes -= static_cast<size_t>(put);
    }
    return true;
  }

 private:
  int descriptor_;
};

Header header_of(std::string_view key, std::string_view content) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.key_bytes = key.size();
  header.content_bytes = content.size();
  Hash hash;
  hash.add(key);
  hash.add(content);
  header.check[0] = hash.a;
  header.check[1] = hash.b;
  return header;
}

bool make_folders(const std::string& path) {
  for (size_t at = 0; at != std::string::npos;) {
    at = path.find('/', at + 1);
    if (mkdir(path.substr(0, at).c_str(), 0700) != 0 && errno != EEXIST) return false;
  }
  return true;
}

// Another user who could write here could make this one run any code on the device.
bool is_own(const std::string& path) {
  struct stat found;
  if (lstat(path.c_str(), &found) != 0 || !S_ISDIR(found.st_mode)) return false;
  return found.st_uid == geteuid() && (found.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

std::string path_of(const std::string& folder, std::string_view key) {
  return folder + "/" + digest(key) + kSuffix;
}

void trim(const std::string& folder) {
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return;
  std::vector<std::pair<int64_t, std::string>> files;
  while (const dirent* entry = readdir(entries)) {
    const std::string path = folder + "/" + entry->d_name;
    struct stat found;
    if (entry->d_name[0] == '.' || lstat(path.c_str(), &found) != 0) continue;
    files.emplace_back(found.st_mtime, path);
  }
  closedir(entries);
  if (files.size() <= kMostFiles) return;
  std::sort(files.begin(), files.end());
  for (size_t i = 0; i < files.size() / 2; ++i) unlink(files[i].second.c_str());
}

}  // namespace

std::string digest(std::string_view text) {
  Hash hash;
  hash.add(text);
  char out[33];
  std::snprintf(out, sizeof out, "%016llx%016llx", static_cast<unsigned long long>(hash.a),
                static_cast<unsigned long long>(hash.b));
  return out;
}

std::string cache_folder() {
  std::string folder;
  const auto from = [&](const char* variable, const char* below) {
    const char* value = std::getenv(variable);
    if (!folder.empty() || value == nullptr || *value == '\0') return;
    folder = std::string(value) + below;
  };
  from(kVariable, "");
  from("XDG_CACHE_HOME", "/onnx_fusion");
  from("HOME", "/.cache/onnx_fusion");
  if (folder.empty()) return {};
  folder += "/cuda";
  if (!make_folders(folder) || !is_own(folder)) return {};
  return folder;
}

bool load(const std::string& folder, std::string_view key, std::string* content) {
  if (folder.empty()) return false;
  const File file(open(path_of(folder, key).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.descriptor() < 0) return false;
  Header header;
  std::string stored;
  if (!file.read_all(&header, sizeof header)) return false;
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return false;
  if (header.key_bytes != key.size() || header.content_bytes > kLargest) return false;
  stored.resize(key.size());
  content->resize(header.content_bytes);
  if (!file.read_all(stored.data(), stored.size()) || stored != key) return false;
  if (!file.read_all(content->data(), content->size())) return false;
  const Header expected = header_of(key, *content);
  return std::memcmp(&expected, &header, sizeof header) == 0;
}

void save(const std::string& folder, std::string_view key, std::string_view content) {
  if (folder.empty() || content.size() > kLargest) return;
  std::string made = folder + "/.new-XXXXXX";
  const File file(mkostemp(made.data(), O_CLOEXEC));
  if (file.descriptor() < 0) return;
  const Header header = header_of(key, content);
  const bool whole = file.write_all(&header, sizeof header) &&
                     file.write_all(key.data(), key.size()) &&
                     file.write_all(content.data(), content.size());
  if (!whole || rename(made.c_str(), path_of(folder, key).c_str()) != 0) {
    unlink(made.c_str());
    return;
  }
  trim(folder);
}

void forget(const std::string& folder, std::string_view key) {
  if (!folder.empty()) unlink(path_of(folder, key).c_str());
}

}  // namespace onnx_fusion::cuda
