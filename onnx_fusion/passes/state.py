"""States defaults that must not be left to a function."""

from __future__ import annotations

import dataclasses

from onnx_fusion.graph.model import Graph
from onnx_fusion.ops import table


def state(graph: Graph) -> Graph:
    """Give nodes the attributes that their rows want stated and they leave out; return `graph`.

    What a node was stands for it where it stays unfused.
    """
    for node in graph.nodes:
        left_out = {k: v for k, v in table.find(node).stated if k not in node.attrs}
        if left_out and not node.parts:
            node.parts = (dataclasses.replace(node),)
            node.attrs = {**node.attrs, **left_out}
            node.proto = None
    return graph
