"""Which region makes two models differ: kernels are swapped for their functions, half by half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.names import node_name
from onnx_fusion.runtime.gate import compare
from onnx_fusion.runtime.side import Side
from onnx_fusion.runtime.surgery import float_names, fused_nodes, has_functions, only, show

CHUNK = 64
"""How many values are compared at once when the first difference is looked for."""


def find_fault(
    left: Side, right: Side, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> str | None:
    """Return a phrase that names the node at fault for outputs that differ, or None.

    The regions are run as kernels up to a point and as portable functions from there on; the point
    is moved until one region alone decides. If the functions differ too, no kernel is to blame,
    and the first value that both models have, and that differs, is named.
    """
    wanted = left.run(inputs, outputs)
    fused = fused_nodes(right.proto)

    def wrong(count: int) -> bool:
        model = only(right.proto, range(count))
        return differ(wanted, right.run(inputs, outputs, model))

    try:
        if right.library and fused and has_functions(right.proto) and not wrong(0):
            good, bad = 0, len(fused)
            while bad - good > 1:
                middle = (good + bad) // 2
                good, bad = (good, middle) if wrong(middle) else (middle, bad)
            return f"region {region_name(fused[bad - 1])} is at fault"
        return first_difference(left, right, inputs)
    except OnnxFusionError:
        return None


def differ(wanted: Sequence[Any], got: Sequence[Any]) -> bool:
    """Return whether any result fails the fp32 gate."""
    return any(not compare(w, g).passed for w, g in zip(wanted, got, strict=True))


def region_name(node: onnx.NodeProto) -> str:
    """Return a fused node's name and type."""
    return f"'{node.name}' ({node.op_type})"


def first_difference(left: Side, right: Side, inputs: Mapping[str, np.ndarray]) -> str | None:
    """Return a phrase about the first node of the optimized model with a result that differs."""
    floats = float_names(left.proto)
    known = {name for node in left.proto.graph.node for name in node.output if name in floats}
    makers = {
        name: node_name(node, index)
        for index, node in enumerate(right.proto.graph.node)
        for name in node.output
        if name in known
    }
    names = list(makers)
    for start in range(0, len(names), CHUNK):
        here = names[start : start + CHUNK]
        wanted = left.run(inputs, here, show(left.proto, here))
        got = right.run(inputs, here, show(right.proto, here))
        for name, one, other in zip(here, wanted, got, strict=True):
            if not compare(one, other).passed:
                return f"node '{makers[name]}' makes the first value that differs, '{name}'"
    return None
