// How ONNX Runtime's calls reach what is held for a node, of the CPU's kind or CUDA's.
#pragma once

#include <string>

#include "ort/inputs.h"

namespace onnx_fusion::ort {

// A Node is made from its Region, the table, the kernel's info and what errors call it; it has
// compute(), api() and where().
template <class Node, class Region>
OrtStatus* create_node(const CustomOp* op, const Api* api, const OrtKernelInfo* info,
                       void** node) noexcept {
  std::string where;
  try {
    const auto* region = static_cast<const Region*>(op);
    where = node_text(api, info, region);
    *node = new Node(region, api, info, where);
    return nullptr;
  } catch (...) {
    return caught(api, where);
  }
}

template <class Node>
OrtStatus* compute_node(void* node, OrtKernelContext* context) noexcept {
  const Node& self = *static_cast<const Node*>(node);
  try {
    return self.compute(context);
  } catch (...) {
    return caught(self.api(), self.where());
  }
}

template <class Node, class Region>
void use_node(Region* region) {
  region->create_kernel_status = create_node<Node, Region>;
  region->compute_status = compute_node<Node>;
  region->destroy = [](void* node) { delete static_cast<Node*>(node); };
}

}  // namespace onnx_fusion::ort
