"""The extents of an Einsum's output, whose letters broadcast (ONNX spec, Einsum)."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_fusion.graph.model import Dim, Node
from onnx_fusion.ops.einsum import terms
from onnx_fusion.ops.tensor import Refused
from onnx_fusion.passes.windows import Extent, Shape


def lettered(node: Node, shapes: Sequence[Shape | None]) -> list[Extent] | None:
    """Return each letter's extent, None where unequal symbols leave it open."""
    found = _extents(node, shapes)
    if found is None:
        return None
    extents, result = found
    return [_settled(extents[letter]) for letter in result]


def is_uneven(node: Node) -> bool:
    """True if a letter has several extents: onnx.shape_inference believes the first it meets."""
    found = _extents(node, [None if value is None else value.shape for value in node.inputs])
    return found is not None and any(len(dims) > 1 for dims in found[0].values())


def _extents(
    node: Node, shapes: Sequence[Shape | None]
) -> tuple[dict[str, set[Dim]], list[str]] | None:
    if any(shape is None for shape in shapes):
        return None
    try:
        named, result = terms(str(node.attrs.get("equation", "")), [len(s) for s in shapes])
    except (Refused, ValueError):
        return None
    extents: dict[str, set[Dim]] = {}
    for axes, shape in zip(named, shapes, strict=True):
        for letter, dim in zip(axes, shape, strict=True):
            extents.setdefault(letter, set()).add(dim)
    return extents, result


def _settled(dims: set[Dim]) -> Dim | None:
    longer = dims - {1}
    known = [dim for dim in longer if isinstance(dim, int)]
    if len(longer) == 1 or known:
        return known[0] if known else next(iter(longer))
    return None if longer else 1
