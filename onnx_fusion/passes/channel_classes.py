"""Values whose channels lie in one order, since operators pass them on channel by channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.sets import Sets
from onnx_fusion.ops.channels import CHANNEL, shared_axes
from onnx_fusion.passes.atoms import Family


class Classes(Sets):
    """Values that have one order of channels, and the orders: of each place, which channel it
    has."""

    def __init__(self, graph: Graph, families: Sequence[Family]) -> None:
        super().__init__()
        self.orders: dict[Value, np.ndarray] = {}
        self.axes = {}
        moved = {node for family in families for node in family.nodes}
        stuck: set[Value] = set()
        for node in graph.nodes:
            if node in moved:
                continue
            self.axes[node] = groups = _axes_of(node)
            known = {v for group in groups for v, axis in group if axis == CHANNEL}
            for value in (*node.inputs, *node.outputs, *node.captures):
                if value is not None and value not in known and value.weight is None:
                    stuck.add(value)
            for group in groups:
                values = [v for v, axis in group if v.weight is None and axis == CHANNEL]
                for value in values[1:]:
                    self.join(values[0], value)
                if any(v.weight is None and axis != CHANNEL for v, axis in group):
                    stuck.update(values)
        stuck.update(
            v for v in graph.values.values() if v.is_output or v.captured or v.producer is None
        )
        for value in stuck:
            if (
                value.shape is not None
                and len(value.shape) > CHANNEL
                and isinstance(value.shape[CHANNEL], int)
            ):
                self.orders[self.find(value)] = np.arange(value.shape[CHANNEL])

    def order(self, value: Value) -> np.ndarray | None:
        """Return the order of the value's class, None if it may still be chosen."""
        return self.orders.get(self.find(value))

    def is_moved(self, value: Value | None) -> bool:
        """Return whether the value's channels are to lie otherwise than they did."""
        if value is None or value.weight is not None:
            return False
        order = self.order(value)
        return order is not None and not np.array_equal(order, np.arange(order.size))


def _axes_of(node: Node) -> list[list[tuple[Value, int]]]:
    """Return the sets of axes that may be permuted alike, none where constants hide among the
    parts."""
    if node.body_is_parts and any(
        v is not None and v.weight is not None and v.weight.size > 1
        for part in flat(node.parts)
        for v in part.inputs
    ):
        return []
    return shared_axes(node)


def flat(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield the nodes and all their parts."""
    for node in nodes:
        yield node
        yield from flat(node.parts)
