#include "cuda/render.h"

namespace onnx_fusion::cuda {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + "\"";
}

std::string triple(const unsigned* v) {
  return "[" + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " + std::to_string(v[2]) +
         "]";
}

}  // namespace

std::string describe(const Plan& plan) {
  static const char* const kinds[] = {"input", "output", "workspace", "failure", "int32", "int64"};
  std::string out = "{\"workspace\": " + std::to_string(plan.workspace_bytes) + ", \"may_fail\": " +
                    (plan.may_fail ? "true" : "false") + ", \"sources\": [";
  for (size_t i = 0; i < plan.sources.size(); ++i) {
    out += (i > 0 ? ", " : "") + std::string("{\"entry\": ") + quoted(plan.sources[i].entry) +
           ", \"body\": " + quoted(plan.sources[i].body) +
           ", \"unit\": " + quoted(unit(&plan.sources[i], 1)) + "}";
  }
  out += "], \"launches\": [";
  for (size_t i = 0; i < plan.launches.size(); ++i) {
    const Launch& launch = plan.launches[i];
    out += (i > 0 ? ", " : "") + std::string("{\"source\": ") + std::to_string(launch.source) +
           ", \"grid\": " + triple(launch.grid) + ", \"block\": " + triple(launch.block) +
           ", \"shared\": " + std::to_string(launch.shared_bytes) + ", \"arguments\": [";
    for (size_t k = 0; k < launch.arguments.size(); ++k) {
      const Argument& argument = launch.arguments[k];
      out += (k > 0 ? ", " : "") + std::string("[\"") + kinds[static_cast<size_t>(argument.kind)] +
             "\", " + std::to_string(argument.value) + "]";
    }
    out += "]}";
  }
  return out + "]}";
}

}  // namespace onnx_fusion::cuda
