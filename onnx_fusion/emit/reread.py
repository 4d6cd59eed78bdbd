"""Unfused nodes that read other values than they did.

    x -- Cast -- y -- ScatterElements     a Cast to the type it has: a rewrite reads through it
    x ---------------- ScatterElements    written so, or the Cast would stay for one reader

    x -- Unsqueeze -- Unsqueeze -- z      of nodes that only give a value another shape, what a
    x -- Reshape -- z                     rewrite made of several is written, not they
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import onnx

from onnx_fusion.emit.function import node_proto
from onnx_fusion.ops.peer import renames

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
    left = [node for node in graph.nodes if node not in members]
    for node in filter(_is_rename, left):
        k = source.get(node.outputs[0].name)
        new = [v for v in node.inputs if v is not None and v.name not in known]
        if k is not None and all(value.weight is not None for value in new):
            found[k] = node_proto(node)
            constants += new
    for node in _originals(node for node in left if not _is_rename(node)):
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


def _is_rename(node: Node) -> bool:
    """Return whether several nodes that only give a value another shape became this one."""
    parts = list(_originals(node.parts))
    return len(parts) > 1 and len(node.outputs) == 1 and all(map(renames, (node, *parts)))


def _originals(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield the nodes of the input model that are written for these."""
    for node in nodes:
        if node.parts:
            yield from _originals(node.parts)
        elif node.proto is not None:
            yield node
