"""Equal nodes computed once, and nodes that nobody reads left out."""

from __future__ import annotations

import numpy as np

from onnx_fusion.graph.model import Node, Value
from onnx_fusion.ops import table
from onnx_fusion.passes.rewrite.model import Exactness, Proposal, Rule, Scene
from onnx_fusion.passes.rewrite.pattern import COMMUTATIVE

_SMALL = 1024
_KEPT = frozenset(("Dropout",))
_SHAPES = frozenset(("Shape", "Size"))


def _rooted() -> frozenset[str]:
    """Return the operators that compute the same from the same: all that have a lowering, and
    shapes."""
    rows = table.TABLE.items()
    return frozenset(op for (domain, op), row in rows if not domain and row.lower) - _KEPT | _SHAPES


def _share(node: Node, scene: Scene) -> Proposal | None:
    """Let another node's outputs serve, if it computes the same and comes first."""
    source = next((v for v in node.inputs if v is not None and v.weight is None), None)
    if source is None or node.captures:
        return None
    if any(v is None or v.is_output or v.captured for v in node.outputs):
        return None
    if not any(v.consumers for v in node.outputs):
        return None
    key = None
    for other in source.consumers:
        if other is node or other.op_type != node.op_type or other.domain or not scene.alive(other):
            continue
        if scene.place[other] > scene.place[node] or len(other.outputs) != len(node.outputs):
            continue
        key = key or _key(node, scene)
        if _key(other, scene) == key and all(
            a is not None and a.shape == b.shape and a.dtype is b.dtype
            for a, b in zip(other.outputs, node.outputs, strict=True)
        ):
            return Proposal((node,), [], dict(zip(node.outputs, other.outputs, strict=True)))
    return None


def _key(node: Node, scene: Scene) -> tuple:
    """Return what decides a node's results."""
    inputs = [_identity(value) for value in node.inputs]
    if scene.commute and node.op_type in COMMUTATIVE:
        inputs.sort()
    attrs = sorted((key, _plain(value)) for key, value in node.attrs.items())
    return node.op_type, tuple(inputs), tuple(map(str, attrs))


def _identity(value: Value | None) -> tuple:
    if value is None:
        return ("none",)
    weight = value.weight
    if weight is not None and weight.nbytes <= _SMALL:
        return ("data", str(weight.code), str(weight.shape), bytes(weight.raw()).hex())
    return ("value", str(id(value)))


def _plain(value: object) -> object:
    return (
        (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
    )


def _unread(node: Node, scene: Scene) -> Proposal | None:
    """Drop a node none of whose outputs is read."""
    if node.captures or any(
        v is not None and (v.consumers or v.is_output or v.captured) for v in node.outputs
    ):
        return None
    return Proposal((node,))


RULES = [
    Rule("share", _rooted(), Exactness.EXACT, "equal nodes on equal inputs computed once", _share),
    Rule("unread", _rooted(), Exactness.EXACT, "nodes that nobody reads", _unread),
]
