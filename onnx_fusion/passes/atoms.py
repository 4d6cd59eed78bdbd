"""Follows channels through operators that only give them other places.

    a, b -- Concat -- Reshape [n, 2, 4, h, w] -- Transpose -- Reshape [n, 8, h, w] -- Split -- c, d

    c is a.0 b.0 a.1 b.1, d is a.2 b.2 a.3 b.3

Such an operator moves numbers that stand for channels as it moves the channels, so NumPy does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from onnx_fusion.graph.model import Dim, Graph, Node, Value
from onnx_fusion.ops import table
from onnx_fusion.ops.channels import CHANNEL
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.row import ints
from onnx_fusion.ops.tensor import Refused

MOST = 1 << 16
"""Channels of a value, above which it is left alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Atoms:
    """Where the channels of a value come from: `ids`, one for each place in its leading axes.

    Before these stands the `batch`, unless it is 1, which `ids` have; behind them all other axes,
    the `tail`.
    """

    ids: np.ndarray
    batch: tuple[Dim, ...]
    tail: tuple[Dim, ...]

    @property
    def shape(self) -> tuple[Dim, ...]:
        return (*self.batch, *self.ids.shape, *self.tail)


@dataclasses.dataclass(eq=False, slots=True)
class Family:
    """Operators that only give channels other places, joined by values.

    `atoms` has every value that they write, `bases` those they read and do not write, with the ids
    of their channels; `mixes` counts the operators among them that do more than cut and join.
    """

    nodes: list[Node] = dataclasses.field(default_factory=list)
    bases: dict[Value, np.ndarray] = dataclasses.field(default_factory=dict)
    atoms: dict[Value, Atoms] = dataclasses.field(default_factory=dict)
    mixes: int = 0


def find_families(graph: Graph) -> list[Family]:
    """Return the families of a graph, ordered by their first nodes; no node is in two."""
    known: dict[Value, Atoms] = {}
    home: dict[Value, Family] = {}
    families: list[Family] = []
    count = 0
    for node in graph.nodes:
        move = _MOVES.get(node.op_type) if not node.domain else None
        if move is None:
            continue
        fresh: dict[Value, Atoms] = {}
        for value in dict.fromkeys(v for v in _moved(node) if v is not None and v not in known):
            base = _as_base(value, count)
            if base is None:
                break
            fresh[value] = base
            count += base.ids.size
        given = [known.get(v) or fresh.get(v) for v in _moved(node)]
        made = move(node, given) if given and None not in given else None
        if made is None or any(
            v is None or v.shape != a.shape for v, a in zip(node.outputs, made, strict=False)
        ):
            continue
        known.update(fresh)
        family = Family()
        for value in dict.fromkeys(_moved(node)):
            other = home.get(value)
            if other is not None and other is not family:
                family = _join(families, family, other, home)
        if family not in families:
            families.append(family)
        family.nodes.append(node)
        family.mixes += (
            table.find(node).mapping_of(node) is MappingType.SHUFFLE or node.op_type == "Gather"
        )
        for value, atoms in fresh.items():
            family.bases[value] = atoms.ids.reshape(-1)
        for value, atoms in zip(node.outputs, made, strict=False):
            known[value] = family.atoms[value] = atoms
        home.update(dict.fromkeys((*family.bases, *family.atoms), family))
    place = {node: k for k, node in enumerate(graph.nodes)}
    for family in families:
        family.nodes.sort(key=place.__getitem__)
    return families


def _join(families: list[Family], one: Family, other: Family, home: dict[Value, Family]) -> Family:
    """Return the family that has both; it stands where `other` stood."""
    if one in families:
        families.remove(one)
        other.nodes += one.nodes
        other.bases |= one.bases
        other.atoms |= one.atoms
        other.mixes += one.mixes
        home.update(dict.fromkeys((*one.bases, *one.atoms), other))
    return other


def _moved(node: Node) -> list[Value | None]:
    """Return the inputs whose elements the node moves."""
    return node.inputs if node.op_type == "Concat" else node.inputs[:1]


def _as_base(value: Value, first: int) -> Atoms | None:
    """Return the atoms of a value whose channels are numbered from `first`, None if it has no such
    axis."""
    shape = value.shape
    if value.weight is not None or shape is None or len(shape) <= CHANNEL + 1:
        return None
    if not isinstance(shape[CHANNEL], int) or shape[CHANNEL] > MOST:
        return None
    ids = np.arange(first, first + shape[CHANNEL])
    if shape[0] == 1:
        return Atoms(ids[None], (), shape[CHANNEL + 1 :])
    return Atoms(ids, shape[:1], shape[CHANNEL + 1 :])


Move = Callable[[Node, Sequence[Atoms]], "list[Atoms] | None"]


def _shaped(node: Node, given: Sequence[Atoms]) -> list[Atoms] | None:
    """Another shape of leading axes; one that leaves the channels as they are is nobody's business
    here."""
    (old,), shape = given, node.outputs[0].shape
    if shape is None or shape[: CHANNEL + 1] == node.inputs[0].shape[: CHANNEL + 1]:
        return None
    begin = len(old.batch)
    if shape[:begin] != old.batch:
        return None
    ends = [k for k in range(begin, len(shape) + 1) if _size(shape[begin:k]) == old.ids.size]
    ends.sort(key=lambda k: shape[k:] != old.tail)
    for end in ends:
        size = _size(shape[end:])
        if shape[end:] == old.tail or size is not None and size == _size(old.tail):
            return [Atoms(old.ids.reshape(shape[begin:end]), old.batch, shape[end:])]
    return None


def _size(dims: Sequence[Dim]) -> int | None:
    return math.prod(dims) if all(isinstance(dim, int) for dim in dims) else None


def _transposed(node: Node, given: Sequence[Atoms]) -> list[Atoms] | None:
    (old,) = given
    first, rank = len(old.batch), len(old.shape)
    last = first + old.ids.ndim
    perm = [int(axis) for axis in node.attrs.get("perm") or range(rank - 1, -1, -1)]
    if perm[:first] != [*range(first)] or perm[last:] != [*range(last, rank)]:
        return None
    return [
        Atoms(old.ids.transpose([axis - first for axis in perm[first:last]]), old.batch, old.tail)
    ]


def _axis(node: Node, atoms: Atoms, default: int = 0) -> int | None:
    """Return the axis of the ids that the node's axis is, None if it is none of them."""
    axis = int(node.attrs.get("axis", default)) % len(atoms.shape) - len(atoms.batch)
    return axis if 0 <= axis < atoms.ids.ndim else None


def _joined(node: Node, given: Sequence[Atoms]) -> list[Atoms] | None:
    first = given[0]
    axis = _axis(node, first)
    if axis is None:
        return None
    kept = [(a.batch, a.tail, a.ids.shape[:axis], a.ids.shape[axis + 1 :]) for a in given]
    if any(a.ids.ndim != first.ids.ndim for a in given) or any(other != kept[0] for other in kept):
        return None
    return [Atoms(np.concatenate([a.ids for a in given], axis), first.batch, first.tail)]


def _split(node: Node, given: Sequence[Atoms]) -> list[Atoms] | None:
    (old,) = given
    axis = _axis(node, old)
    sizes = [
        v.shape[axis + len(old.batch)] for v in node.outputs if axis is not None and v and v.shape
    ]
    if len(sizes) != len(node.outputs) or not all(isinstance(size, int) for size in sizes):
        return None
    if sum(sizes) != old.ids.shape[axis]:
        return None
    pieces = np.split(old.ids, np.cumsum(sizes)[:-1], axis)
    return [Atoms(piece, old.batch, old.tail) for piece in pieces]


def _sliced(node: Node, given: Sequence[Atoms]) -> list[Atoms] | None:
    (old,) = given
    try:
        starts, ends, axes, steps = (
            ints(node, name, k + 1) for k, name in enumerate(("starts", "ends", "axes", "steps"))
        )
    except Refused:
        return None
    if starts is None or ends is None:
        return None
    ids, first = old.ids, len(old.batch)
    axes = axes if axes is not None else [*range(len(starts))]
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=False):
        axis = axis % len(old.shape) - first
        if not 0 <= axis < ids.ndim or step < 1:
            return None
        ids = ids[(slice(None),) * axis + (slice(start, end, step),)]
    return [Atoms(ids, old.batch, old.tail)]


def _gathered(node: Node, given: Sequence[Atoms]) -> list[Atoms] | None:
    (old,) = given
    axis, index = _axis(node, old), node.inputs[1]
    if axis is None or index is None or index.weight is None:
        return None
    at, extent = index.weight.array(), old.ids.shape[axis]
    if at.size == 0 or at.min() < -extent or at.max() >= extent:
        return None
    return [Atoms(old.ids.take(at % extent, axis), old.batch, old.tail)]


_MOVES: dict[str, Move] = {
    "Reshape": _shaped, "Flatten": _shaped, "Squeeze": _shaped, "Unsqueeze": _shaped,
    "Transpose": _transposed, "Concat": _joined, "Split": _split, "Slice": _sliced,
    "Gather": _gathered,
}  # fmt: skip
