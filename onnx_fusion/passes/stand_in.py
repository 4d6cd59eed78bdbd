"""What shape inference is shown in place of ONNX Runtime's own operators, which it passes by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.numpy_helper
from onnx.helper import make_node

from onnx_fusion.graph.model import Node, Value


def stand_in(node: Node) -> list[onnx.NodeProto]:
    """Return nodes of ONNX whose outputs have the types and shapes of this node's.

    Nothing for an operator without a rule. Only types and shapes agree, so constants must not be
    computed with these.
    """
    rule = {"com.microsoft": _RULES, "": _PASSED_BY}.get(node.domain, {}).get(node.op_type)
    return [] if rule is None or node.proto is None else rule(node)


def _first(node: Node) -> list[onnx.NodeProto]:
    return [make_node("Identity", node.proto.input[:1], node.proto.output[:1])]


def _first_and_sum(node: Node) -> list[onnx.NodeProto]:
    outputs = [name for k, name in enumerate(node.proto.output) if name and k in (0, 3)]
    return [make_node("Identity", node.proto.input[:1], [name]) for name in outputs]


def _product(node: Node) -> list[onnx.NodeProto]:
    """Return MatMul, or Einsum, whose inference wants an ellipsis of equal length in both."""
    given, names = node.attrs, (node.proto.input[:2], node.proto.output[:1])
    if given.get("transBatchA") or given.get("transBatchB"):
        return []
    if not given.get("transA") and not given.get("transB"):
        return [make_node("MatMul", *names)]
    left = "ki" if given.get("transA") else "ik"
    right = "jk" if given.get("transB") else "kj"
    a, b = (_batch(value) for value in node.inputs[:2])
    batch = "..." if a or b else ""
    return [make_node("Einsum", *names, equation=f"{a}{left},{b}{right}->{batch}ij")]


def _by_head(node: Node) -> list[onnx.NodeProto]:
    """Return what has the queries' tokens and the values' columns, nothing if inputs are packed."""
    names = node.proto.input
    if len(names) < 3 or not names[2] or any(node.proto.output[1:]):
        return []
    return [make_node("Einsum", [names[0], names[2]], node.proto.output, equation="bsq,btv->bsv")]


def _packed(node: Node) -> list[onnx.NodeProto]:
    """Return a third of the projection's columns; other divisions have no rule."""
    if node.attrs.get("qkv_hidden_sizes") or any(node.proto.output[1:]):
        return []
    made = [f"{node.proto.output[0]}/{part}" for part in ("all", "shape", "three")]
    shape = onnx.numpy_helper.from_array(np.array([0, 0, 3, -1]))
    return [
        make_node("MatMul", node.proto.input[:2], made[:1]),
        make_node("Constant", [], made[1:2], value=shape),
        make_node("Reshape", made[:2], made[2:]),
        make_node("Einsum", made[2:], node.proto.output[:1], equation="bstv->bsv"),
    ]


def _from_the_end(node: Node) -> list[onnx.NodeProto]:
    """Return Squeeze or Unsqueeze with axes from the front: opsets below 11 know no others."""
    axes, x = node.attrs.get("axes"), node.inputs[0]
    if not axes or min(axes) >= 0 or x is None or x.shape is None:
        return []
    rank = len(x.shape) + (len(axes) if node.op_type == "Unsqueeze" else 0)
    if rank == 0:
        return []
    names = node.proto.input[:1], node.proto.output[:1]
    return [make_node(node.op_type, *names, axes=[axis % rank for axis in axes])]


def _batch(value: Value | None) -> str:
    return "" if value is not None and value.shape is not None and len(value.shape) == 2 else "..."


_RULES: dict[str, Callable[[Node], list[onnx.NodeProto]]] = {
    **dict.fromkeys(("Gelu", "BiasGelu", "FastGelu", "QuickGelu"), _first),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), _first_and_sum),
    "FusedMatMul": _product,
    "RotaryEmbedding": _first,
    "MultiHeadAttention": _by_head,
    "Attention": _packed,
}
_PASSED_BY = {
    "MeanVarianceNormalization": _first,
    "SimplifiedLayerNormalization": _first,
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _from_the_end),
}
"""ONNX's own, of which inference finds nothing (from a function body, without its attribute), or
not what ONNX Runtime does."""
