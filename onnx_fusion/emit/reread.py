"""Unfused nodes that read other values than they did.

    x -- Cast -- y -- ScatterElements     a Cast to the type it has: a rewrite reads through it
    x ---------------- ScatterElements    written so, or the Cast would stay for one reader
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Graph, Node, Value


def find_reread(
    now: onnx.ModelProto, graph: Graph, members: Collection[Node], known: Collection[str]
) -> tuple[dict[int, onnx.NodeProto], list[Value]]:
    """Return the input model's nodes that stay unfused and now read other names, by index, as they
    are to be written, and the constants among what they read that no name is `known` for.

    `now` is the graph's proto, `members` the nodes that are fused. A name that is not known, of a
    value that a pass made up, is not read: the node then reads what it read before.
    """
    source = {name: k for k, node in enumerate(now.graph.node) for name in node.output if name}
    found: dict[int, onnx.NodeProto] = {}
    constants: list[Value] = []
    for node in _originals(node for node in graph.nodes if node not in members):
        k = next((source[v.name] for v in node.outputs if v is not None and v.name in source), None)
        if k is None or len(now.graph.node[k].input) < len(node.inputs):
            continue
        for position, value in enumerate(node.inputs):
            name = now.graph.node[k].input[position]
            if value is None or not name or value.name == name:
                continue
            if value.name not in known:
                if value.weight is None:
                    continue
                constants.append(value)
            if k not in found:
                found[k] = onnx.NodeProto()
                found[k].CopyFrom(now.graph.node[k])
            found[k].input[position] = value.name
    return found, constants


def _originals(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield the nodes of the input model that are written for these."""
    for node in nodes:
        if node.parts:
            yield from _originals(node.parts)
        elif node.proto is not None:
            yield node
