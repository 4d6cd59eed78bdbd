"""What symbols stand for at sizes that a caller may use: an estimate needs numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.model import Graph, Node, walk
from onnx_fusion.graph.view import view
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.infer import has_room, infer

FLOATS = (DType.F16, DType.BF16, DType.F32, DType.F64)
_ROUNDS = 3
_LARGEST = 1 << 26
"""Elements of an input: nobody gives more."""
_LISTED = 1 << 23
"""The same where a Concat joins vectors: onnx lists their elements one by one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Extents of images, of sequences and of signals, and of what nobody knows before the run."""

    image: int
    length: int
    signal: int
    found: int


USUAL = (Sizes(224, 128, 16000, 64), Sizes(96, 32, 4000, 8), Sizes(448, 384, 48000, 512))
"""The usual ones, small and large ones. Images are often halved five times."""
ODD = (Sizes(48, 128, 16000, 64), Sizes(32, 16, 512, 64), Sizes(320, 64, 1024, 64))
"""Tried in this order for a model that takes none of them."""


def usual_sizes(graph: Graph, sizes: Sizes) -> dict[str, int]:
    """Return a size for each symbol of the graph's inputs.

    The first axis is a batch of 1, but of vectors; the others of inputs with four axes or more are
    an image's, of matrices of floating-point numbers a signal's, the rest are lengths of sequences.
    """
    found: dict[str, int] = {}
    for value in graph.inputs:
        shape = value.shape or ()
        for axis, dim in enumerate(shape):
            if not isinstance(dim, str):
                continue
            if axis == 0 and len(shape) > 1:
                extent = 1
            elif len(shape) > 3:
                extent = sizes.image
            else:
                signal = len(shape) < 3 and value.dtype in FLOATS
                extent = sizes.signal if signal else sizes.length
            found.setdefault(dim, extent)
    return found


def find_extents(graph: Graph, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return what symbols of a prepared graph are where those of its inputs have these sizes.

    The model is read again with the sizes in its inputs; values of the same name agree. Symbols
    that stay unknown are not there; nothing is if the model does not take these sizes, or an input
    would be too large to be real.
    """
    fresh = view(graph.model)
    largest = _LISTED if any(map(_joins_vectors, graph.nodes)) else _LARGEST
    for value in fresh.inputs:
        if value.shape is not None:
            value.shape = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in value.shape)
            if math.prod(d for d in value.shape if isinstance(d, int)) > largest:
                return {}
    try:
        for _ in range(1 + _ROUNDS):
            if not has_room(fresh):
                return {}
            before = len(infer(fresh).nodes)
            if len(fold(fresh).nodes) == before:
                break
    except OnnxFusionError:
        return {}
    found = dict(sizes)
    for name, value in graph.values.items():
        twin = fresh.values.get(name)
        shape = twin.shape if twin is not None else None
        if shape is None or value.shape is None or len(shape) != len(value.shape):
            continue
        for dim, extent in zip(value.shape, shape, strict=True):
            if isinstance(dim, str) and isinstance(extent, int):
                if extent < 1:
                    return {}
                found.setdefault(dim, extent)
    return found


def _joins_vectors(node: Node) -> bool:
    first = node.inputs[0] if node.op_type == "Concat" else None
    return first is not None and first.dtype in FLOATS and len(first.shape or ()) == 1


def usual_extents(graph: Graph) -> list[dict[str, int]]:
    """Return what the symbols of a graph and its bodies are at the usual, a small and a large size,
    without sizes that the model does not take; nothing if there are no symbols.

    Extents that no input's shape gives are as many as `found` says, but for products of others.
    """
    symbols = dict.fromkeys(
        dim
        for one in walk(graph)
        for value in one.values.values()
        for dim in value.shape or ()
        if isinstance(dim, str)
    )
    if not symbols:
        return []
    given = any(isinstance(d, str) for value in graph.inputs for d in value.shape or ())
    made: list[dict[str, int]] = []
    for sizes in (*USUAL, *ODD):
        if sizes in ODD and made:
            break
        extents = find_extents(graph, usual_sizes(graph, sizes)) if given else {}
        if extents or not given:
            made.append(_complete(graph, symbols, extents, sizes.found))
    return made


def _complete(
    graph: Graph, symbols: Iterable[str], extents: dict[str, int], found: int
) -> dict[str, int]:
    """Return the extents with one for every symbol."""
    for dim, factors in graph.products.items():
        known = [extents.get(f, f) if isinstance(f, str) else f for f in factors]
        if dim not in extents and all(isinstance(f, int) for f in known):
            extents[dim] = math.prod(known)
    return {dim: extents.get(dim, found) for dim in symbols}
