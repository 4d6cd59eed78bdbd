"""The view of a model that passes, the planner and lowering work on.

A `Graph` is one ONNX graph with every value resolved: type, shape, constant data, producer, uses.
Passes change it in place or build a new one; they never touch the `Model` it was read from, so what
is written can keep the original protos of everything that was not fused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnx_fusion.dtypes import DType

if TYPE_CHECKING:
    import onnx

    from onnx_fusion.graph.load import Model
    from onnx_fusion.graph.weights import Weight

Dim = int | str
"""A known extent, or a symbol (a dim_param, or a name made up for an unknown extent)."""

MADE_UP = "?"
"""Made-up symbols start so; a dim_param that does is taken for unknown, as exporters mean it."""


LOCAL = "local:"
"""The domain of a call of one of the model's own functions begins so: what it does is in the
function, whatever the operator of that name does, if there is one."""


def made_up(name: str, axis: int) -> str:
    """Return the symbol for an extent about which nothing is known: of this value, in this axis."""
    return f"{MADE_UP}{name}.{axis}"


class Origin(int):
    """An index into the nodes of the graph that a node is in; `name` is what `graph.names` calls
    it."""

    name: str

    def __new__(cls, index: int, name: str) -> Origin:
        self = super().__new__(cls, index)
        self.name = name
        return self


@dataclasses.dataclass(slots=True, eq=False)
class Value:
    """One tensor of a graph.

    `dtype` is None for what is not a tensor of a type in `dtypes`; `shape` is None if the rank is
    unknown. `weight` is set if the value is constant (an initializer that cannot be overridden, a
    Constant node's value, or a folded one). `captured` says that a subgraph's body reads it; the
    nodes that hold such bodies are in `consumers` too. A node is in `consumers` once, however often
    it reads.
    """

    name: str
    dtype: DType | None = None
    shape: tuple[Dim, ...] | None = None
    weight: Weight | None = None
    producer: Node | None = None
    consumers: list[Node] = dataclasses.field(default_factory=list)
    is_output: bool = False
    captured: bool = False

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.dtype}, {self.shape})"


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """One operator application.

    `inputs` and `outputs` hold None where an optional one is omitted. `attrs` holds Python values:
    int, float, str, lists of them, NumPy arrays for tensors, GraphProto for subgraphs. `origin` is
    the set of indices, in the proto of the same graph, of the nodes this one came from (an `Origin`
    each, where a model was viewed), and `parts` those nodes themselves if a pass replaced several
    by this one: they are what is written if it stays unfused. `body_is_parts` says what stands for
    this node in a portable function: its parts, or the node itself. `captures` are the values of
    this graph that its subgraphs read: it depends on them as on inputs.
    """

    op_type: str
    domain: str
    name: str
    inputs: list[Value | None]
    outputs: list[Value | None]
    attrs: dict[str, Any]
    origin: frozenset[int]
    proto: onnx.NodeProto | None = None
    parts: tuple[Node, ...] = ()
    body_is_parts: bool = False
    captures: tuple[Value, ...] = ()

    def __repr__(self) -> str:
        return f"Node({self.op_type}, {self.name!r})"


@dataclasses.dataclass(slots=True, eq=False)
class Graph:
    """A graph in topological order. `opsets` maps each imported domain ("" for ONNX) to its
    version.

    `names` holds every value name in the model, subgraphs included: made-up names avoid and join
    it; the graphs of one model share it. A body is a graph too: `path` says where it is, "" for the
    main graph, and `outer` names what it reads of the graphs around it. Those values are among its
    own `values`, as copies without a producer, and among its `inputs` if they are not constant.
    `bodies` are the bodies of its nodes that are planned (`passes.bodies`), and, of the main graph
    only, `functions` the model's own functions that are (`passes.functions`). `products` says of an
    unknown extent which numbers and symbols it is the product of. `restated` has, by the names of
    values, the nodes that define them instead of what the input model says (`passes.sources`).
    """

    model: Model
    nodes: list[Node]
    values: dict[str, Value]
    inputs: list[Value]
    outputs: list[Value]
    opsets: dict[str, int]
    names: set[str] = dataclasses.field(default_factory=set)
    path: str = ""
    outer: frozenset[str] = frozenset()
    bodies: list[Body] = dataclasses.field(default_factory=list)
    functions: list[Body] = dataclasses.field(default_factory=list)
    products: dict[str, tuple[Dim, ...]] = dataclasses.field(default_factory=dict)
    restated: dict[str, tuple[Node, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A graph and its place: node `index` of the proto around it, in its attribute `attribute`, of
    which it is number `position` if that is a list (else 0). Of a function, only `index` says
    something: its place among the model's functions."""

    index: int
    attribute: str
    position: int
    graph: Graph


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Around:
    """What a body is given by the graphs around it.

    `formal` are type and shape of its inputs, in order; `values` those it reads from outside, by
    name. `defined` are the names that each graph around it defines, outermost first.
    """

    path: str
    formal: tuple[tuple[DType | None, tuple[Dim, ...] | None], ...]
    values: dict[str, Value]
    names: set[str]
    defined: tuple[frozenset[str], ...]


def walk(graph: Graph) -> Iterator[Graph]:
    """Yield the graph and the planned bodies inside it: outer before inner, in the nodes' order;
    then functions."""
    stack = [graph]
    while stack:
        graph = stack.pop()
        yield graph
        stack += [body.graph for body in reversed((*graph.bodies, *graph.functions))]
