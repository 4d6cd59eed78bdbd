"""What programs do not read, since they know extents from the shapes of their inputs.

    a --> b -- Shape -- Gather -- Concat --> Expand        {a, b, Expand} is convex: the fused node
          `------------------------------------^           has the extents of b, and no target
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.ops import table
from onnx_fusion.passes.elements import elements

REASON = "host work on shapes: extents that programs know without it"


def find_spared(nodes: Iterable[Node]) -> dict[Node, frozenset[Value]]:
    """Return for each of the nodes the shape tensors it reads that its program need not be given.

    They hold nothing but numbers and extents of the node's other inputs.
    """
    found = {}
    for node in nodes:
        places = table.find(node).extents
        read = [v for k, v in enumerate(node.inputs) if v is not None and k not in places]
        named = {dim for value in read for dim in value.shape or ()}
        spared = set()
        for value in (node.inputs[k] for k in places if k < len(node.inputs)):
            if value is None or value.weight is not None or value in read:
                continue
            held = elements(value)
            if held is not None and all(isinstance(d, int) or d in named for d in held):
                spared.add(value)
        if spared:
            found[node] = frozenset(spared)
    return found


def find_idle(
    graph: Graph, able: Collection[Node], spared: dict[Node, frozenset[Value]]
) -> set[Node]:
    """Return those of the nodes whose results are only read where they are spared."""
    idle: set[Node] = set()
    for node in reversed(graph.nodes):
        if node in able and not node.captures and all(
            value is None
            or value.consumers
            and not (value.is_output or value.captured)
            and all(user in idle or value in spared.get(user, ()) for user in value.consumers)
            for value in node.outputs
        ):
            idle.add(node)
    return idle
