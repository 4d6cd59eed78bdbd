"""What a rewrite is: a rule, what it proposes, and the graph while it changes."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx.defs

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.model import Dim, Graph, Node, Value
from onnx_fusion.graph.weights import Weight
from onnx_fusion.ops import table

FLOATS = (DType.F32, DType.F64, DType.F16)
INTEGERS = (DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64)
_STAND_IN = 128
"""What a symbol counts for in a FLOP count."""


class Exactness(enum.Enum):
    """What a rule does to results. `strict` allows EXACT, and INTEGERS on integers."""

    EXACT = "exact"
    INTEGERS = "exact on integers, changes rounding on floats"
    ROUNDING = "changes rounding"


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What must fall: operations, then nodes, then values read, single numbers aside."""

    flops: float
    nodes: int
    reads: int

    def key(self) -> tuple[float, int, int]:
        return self.flops, self.nodes, self.reads


@dataclasses.dataclass(slots=True)
class Proposal:
    """Nodes that would go, those that would come, in order, and outputs that other values replace.

    The last of `new` writes an output of `old`; its `parts` become `old`. `alias` maps outputs of
    `old` to values that hold the same. Values made up for the proposal have no name yet.
    """

    old: tuple[Node, ...]
    new: list[Node] = dataclasses.field(default_factory=list)
    alias: dict[Value, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rewrite: `propose(node, scene)` looks at a node whose operator is one of `roots`."""

    name: str
    roots: frozenset[str]
    exactness: Exactness
    about: str
    propose: Callable[[Node, Scene], Proposal | None]


class Scene:
    """A graph while it is rewritten.

    `commute` says whether operands of commutative operators may be tried in both orders.
    """

    def __init__(self, graph: Graph, *, commute: bool = True) -> None:
        self.graph = graph
        self.commute = commute
        self.opset = graph.opsets.get("", 1)
        self.place: dict[Node, tuple[int, ...]] = {n: (k,) for k, n in enumerate(graph.nodes)}

    def alive(self, node: Node) -> bool:
        return node in self.place

    def is_closed(self, old: Sequence[Node], kept: Iterable[Value]) -> bool:
        """True if nothing outside `old` reads what these nodes write, but for `kept`."""
        inside, known = set(old), set(kept)
        return all(
            value in known
            or not (value.is_output or value.captured)
            and inside.issuperset(value.consumers)
            for node in old for value in node.outputs if value is not None)

    def apply(self, proposal: Proposal) -> list[Node]:
        """Change the graph as proposed; return the new nodes, and those that read other values."""
        old = proposal.old
        at = max(self.place[node] for node in old)
        origin = frozenset().union(*(node.origin for node in old))
        for node in old:
            del self.place[node]
            for value in dict.fromkeys(filter(None, (*node.inputs, *node.captures))):
                value.consumers.remove(node)
            for value in filter(None, node.outputs):
                if value.producer is node:
                    value.producer = None
        last = proposal.new[-1] if proposal.new else None
        hint = next(v for v in old[-1].outputs if v is not None).name
        for k, node in enumerate(proposal.new):
            node.origin = node.origin | origin
            for value in filter(None, (*node.inputs, *node.outputs)):
                if not value.name:
                    value.name = edit.fresh_name(self.graph, f"{hint}_rewritten")
                    self.graph.values[value.name] = value
            if node is last:
                node.parts = tuple(old)
            else:
                node.name = node.outputs[0].name
            self.place[node] = (*at, k)
            edit.connect(node)
        touched = list(proposal.new)
        for value, other in proposal.alias.items():
            for user in list(value.consumers):
                _reread(user, value, other)
                user.origin = user.origin | origin
                touched.append(user)
                if user not in other.consumers:
                    other.consumers.append(user)
            value.consumers.clear()
        return touched

    def finish(self) -> None:
        """Write the nodes back to the graph, in order."""
        self.graph.nodes[:] = sorted(self.place, key=self.place.__getitem__)
        edit.prune(self.graph)


def _reread(node: Node, value: Value, other: Value) -> None:
    """Let the node, and the parts that stand for it, read `other` where they read `value`."""
    node.inputs = [other if v is value else v for v in node.inputs]
    node.parts = tuple(_part(part, value, other) for part in node.parts)


def _part(part: Node, value: Value, other: Value) -> Node:
    if value not in part.inputs and not part.parts:
        return part
    copy = dataclasses.replace(part)
    _reread(copy, value, other)
    return copy


def cost_of(nodes: Iterable[Node]) -> Cost:
    """Return what these nodes cost."""
    flops, count, reads = 0.0, 0, 0
    for node in nodes:
        count += 1
        reads += len({v for v in node.inputs
                      if v is not None and (v.weight is None or v.weight.size > 1)})
        size = max((elements(v) for v in node.outputs if v is not None), default=0)
        flops += table.find(node).flops_of(node) * size
    return Cost(flops, count, reads)


def elements(value: Value) -> int:
    """Return the number of elements, symbols counted as _STAND_IN."""
    return math.prod(d if isinstance(d, int) else _STAND_IN for d in value.shape or ())


def broadcast(shapes: Iterable[Sequence[Dim]]) -> tuple[Dim, ...] | None:
    """Return the shape these broadcast to, None if that is not known (ONNX, multidirectional)."""
    shapes = list(shapes)
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = []
    for axis in range(-rank, 0):
        dims = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(dims) > 1:
            return None
        result.append(dims.pop() if dims else 1)
    return tuple(result)


def is_available(op_type: str, opset: int) -> bool:
    """True if ONNX has the operator at this opset."""
    try:
        return onnx.defs.get_schema(op_type, opset).since_version <= opset
    except onnx.defs.SchemaError:
        return False


def constant(array: np.ndarray, dtype: DType) -> Value:
    """Return a new constant, which gets its name if it is used."""
    weight = Weight.of(np.ascontiguousarray(array).astype(dtype.numpy).reshape(array.shape), dtype)
    return Value("", weight.dtype, weight.shape, weight)


class LazyWeight(Weight):
    """A constant that is computed when it is read, each time; no one number, for all one knows."""

    __slots__ = ()


def is_constant(value: Value) -> bool:
    """True for a constant that NumPy computes with."""
    return value.weight is not None and value.dtype not in (None, DType.BF16)


def array_of(value: Value | None) -> np.ndarray | None:
    """Return a constant's data, None if it is not one or NumPy does not compute with its type."""
    return value.weight.array() if value is not None and is_constant(value) else None


def uniform(value: Value | None) -> float | int | bool | None:
    """Return the number that all elements of a small constant are, None if there is none."""
    if value is None or value.weight is None or not 0 < value.weight.size <= 65536:
        return None
    if isinstance(value.weight, LazyWeight):
        return None
    array = array_of(value)
    if array is None:
        return None
    first = array.reshape(-1)[0]
    if array.size > 1 and not (array == first).all():
        return None
    return first.item()


def make(op_type: str, inputs: Sequence[Value | None], output: Value, attrs: dict | None = None,
         name: str = "") -> Node:
    """Return a new node of ONNX's domain."""
    return Node(op_type, "", name, list(inputs), [output], dict(attrs or {}), frozenset())

