// Compiled kernels on disk, in the user's cache directory.
#pragma once

#include <string>
#include <string_view>

namespace onnx_fusion::cuda {

// 128 bits of a text, in hexadecimal.
std::string digest(std::string_view text);

// A folder of this user's alone, made when first asked for: $ONNX_FUSION_CACHE or the user's cache
// directory, /cuda. Empty if there is none that can be trusted.
std::string cache_folder();

// What was stored under this key. False if nothing was, or what is there is not whole: the file is
// then as good as none.
bool load(const std::string& folder, std::string_view key, std::string* content);

// Stores, by way of another name, so that readers see all of it or nothing. A failure is no error:
// it only costs the next session the time.
void save(const std::string& folder, std::string_view key, std::string_view content);

// Removes what is stored under this key.
void forget(const std::string& folder, std::string_view key);

}  // namespace onnx_fusion::cuda
