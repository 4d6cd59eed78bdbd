#include <initializer_list>
#include <utility>

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

std::string strides(int64_t start, const Strides& at) {
  return list({start, at.batch, at.row, at.column});
}

std::string strides(int64_t start, const ImageStrides& at) {
  return list({start, at.image, at.channel, at.space[0], at.space[1], at.space[2]});
}

std::string sizes_text(const Matrices& p) {
  return "\"sizes\": [" + list({p.m, p.n, p.k, p.batches}) + "]";
}

std::string sizes_text(const Convolution& p) {
  std::string out = "\"sizes\": [" + list({p.images, p.groups, p.channels, p.filters}) + "]";
  const std::pair<const char*, const int64_t*> each[] = {
      {"in", p.in},      {"out", p.out},           {"taps", p.taps},
      {"step", p.step},  {"dilation", p.dilation}, {"before", p.before},
      {"after", p.after}};
  for (const auto& [name, n] : each) {
    out += ", " + quoted(name) + ": [" + list({n[0], n[1], n[2]}) + "]";
  }
  return out + ", \"space\": " + std::to_string(p.space);
}

std::string call_text(const Call& call) {
  const auto type = [](DType dtype) {
    return quoted(dtype == DType::f16 ? "f16" : dtype == DType::bf16 ? "bf16" : "f32");
  };
  const std::string which = std::visit([](const auto& p) { return sizes_text(p); }, call.sizes);
  const std::string places = std::visit(
      [&](const auto& p) {
        return "\"a\": [" + strides(call.at_a, p.a) + "], \"b\": [" + strides(call.at_b, p.b) +
               "], \"c\": [" + strides(call.at_c, p.c) + "], \"d\": [" + strides(call.at_d, p.d) +
               "]";
      },
      call.sizes);
  return "{\"operands\": " + type(call.operands) + ", \"result\": " + type(call.result) +
         ", \"flags\": [" + list({call.tf32, call.relu, call.has_c, call.has_bias}) +
         "], \"at_bias\": " + std::to_string(call.at_bias) + ", " + which + ", " + places + "}";
}

}  // namespace

std::string describe(const Plan& plan) {
  static const char* const kinds[] = {"input", "output", "workspace", "failure", "int32", "int64"};
  std::string out = "{\"workspace\": " + std::to_string(plan.workspace_bytes) +
                    ", \"may_fail\": " + (plan.may_fail ? "true" : "false") + ", \"sources\": [";
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
    out += (i > 0 ? ", [" : "[") + list({static_cast<int64_t>(offer.stage),
                                         static_cast<int64_t>(offer.library), offer.parts});
    for (const int64_t size : offer.sizes) out += ", " + std::to_string(size);
    out += "]";
  }
  return out + "]}";
}

}  // namespace onnx_fusion::cuda
