#include <initializer_list>

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

std::string list(std::initializer_list<int64_t> numbers) {
  std::string out;
  for (const int64_t number : numbers) {
    out += (out.empty() ? "" : ", ") + std::to_string(number);
  }
  return out;
}

std::string call_text(const Call& call) {
  static const char* const names[] = {"a", "b", "c", "d"};
  const Strides* const strides[] = {&call.a, &call.b, &call.c, &call.d};
  const int64_t starts[] = {call.at_a, call.at_b, call.at_c, call.at_d};
  const auto type = [](DType dtype) {
    return quoted(dtype == DType::f16 ? "f16" : dtype == DType::bf16 ? "bf16" : "f32");
  };
  std::string out = "{\"operands\": " + type(call.operands) + ", \"result\": " +
                    type(call.result) + ", \"sizes\": [" +
                    list({call.m, call.n, call.k, call.batches}) + "], \"flags\": [" +
                    list({call.tf32, call.relu, call.has_c, call.has_bias}) +
                    "], \"at_bias\": " + std::to_string(call.at_bias);
  for (int i = 0; i < 4; ++i) {
    out += ", " + quoted(names[i]) + ": [" +
           list({starts[i], strides[i]->batch, strides[i]->row, strides[i]->column}) + "]";
  }
  return out + "}";
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
    out += "]" + (launch.call ? ", \"call\": " + call_text(*launch.call) : std::string()) + "}";
  }
  out += "], \"offers\": [";
  for (size_t i = 0; i < plan.offers.size(); ++i) {
    const Offer& offer = plan.offers[i];
    out += (i > 0 ? ", [" : "[") + list({static_cast<int64_t>(offer.stage), offer.m, offer.n,
                                         offer.k, offer.batches, offer.parts}) + "]";
  }
  return out + "]}";
}

}  // namespace onnx_fusion::cuda
