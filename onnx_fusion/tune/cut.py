"""A stretch as a model of its own, so that it can be timed: the same values go in and come out.

    x ---> [ a -> b -> c ] ---> y        x is given as it is in a run of the whole model
               |                         the nodes are the original ones, or the fused
               `-----------> z           y and z are the outputs

ONNX Runtime optimizes the cut as it would the stretch in place: what it would find constant there
is constant here, and a blocked layout ends where the stretch ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnx_fusion.emit.naming import DOMAIN
from onnx_fusion.graph import scope
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.weights import Weight

FIRST_IR = 8
"""Initializers need not be inputs, and functions may be called."""
SHAPE_ONLY = frozenset(("Shape", "Size"))
"""Operators of which only the input's shape matters, so that a cut may end at them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Border:
    """Names of the values that a stretch reads from the rest of the model, and gives to it."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """Nodes of a model, by index, and what they read: values that must be given, and constants."""

    nodes: tuple[int, ...]
    given: tuple[str, ...]
    constants: tuple[str, ...]
    writes: tuple[str, ...]


def find_border(nodes: Sequence[Node]) -> Border:
    """Return the border of a set of nodes; constants are no part of it."""
    members = set(nodes)
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    for node in nodes:
        for value in (*node.inputs, *node.captures):
            if value is not None and value.weight is None and value.producer not in members:
                reads[value.name] = None
        for value in node.outputs:
            if value is not None and leaves(value, members):
                writes[value.name] = None
    return Border(tuple(reads), tuple(writes))


def leaves(value: Value, members: Collection[Node]) -> bool:
    """Return whether something other than these nodes reads the value."""
    return value.is_output or value.captured or any(c not in members for c in value.consumers)


def find_cut(proto: onnx.ModelProto, graph: Graph, nodes: Sequence[Node]) -> Cut | None:
    """Return what computes the border of these nodes in a model: the original, or the fused one.

    Followed backwards from what they write, nodes that the graph no longer has (their results are
    folded) are taken in. None if it cannot be cut: a name is not there, or the way leads through
    other nodes that compute.
    """
    border = find_border(nodes)
    source = {name: k for k, node in enumerate(proto.graph.node) for name in node.output if name}
    constant = {tensor.name for tensor in proto.graph.initializer}
    constant |= {sparse.values.name for sparse in proto.graph.sparse_initializer}
    inputs = {value.name for value in proto.graph.input} - constant
    own = {index for node in nodes for index in node.origin}
    allowed = {name for index in own for name in graph.model.proto.graph.node[index].output}
    members = set(nodes)
    active = {
        value.name
        for node in graph.nodes
        if node not in members
        for value in node.outputs
        if value is not None and value.weight is None
    }
    taken: set[int] = set()
    given: dict[str, None] = {}
    constants: dict[str, None] = {}
    ends, work, seen = set(border.reads), list(reversed(border.writes)), set()
    while work:
        name = work.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in ends or name in inputs:
            given[name] = None
        elif name in constant:
            constants[name] = None
        elif name not in source:
            return None
        else:
            index = source[name]
            node = proto.graph.node[index]
            if name in active and name not in allowed and node.domain != DOMAIN:
                return None
            taken.add(index)
            if node.op_type in SHAPE_ONLY and not node.domain and name not in allowed:
                ends.update(read for read in node.input if read not in allowed)
            work += sorted(scope.reads(node), reverse=True)
    return Cut(tuple(sorted(taken)), tuple(given), tuple(constants), border.writes)


def build(
    proto: onnx.ModelProto,
    weights: Mapping[str, Weight],
    cut: Cut,
    arrays: Mapping[str, np.ndarray],
    copies: int = 1,
) -> onnx.ModelProto:
    """Return the cut as a model whose inputs have the types and shapes of `arrays`.

    `copies` of it stand side by side, with inputs and outputs of their own and the same constants.
    What a session costs is then spread over them: in place, a stretch is not a session.
    """
    made = onnx.ModelProto(ir_version=max(proto.ir_version, FIRST_IR))
    made.opset_import.extend(proto.opset_import)
    made.functions.extend(f for f in proto.functions if f.domain != DOMAIN)
    graph = made.graph
    graph.name = "cut"
    wanted = set(cut.constants)
    for tensor in proto.graph.initializer:
        if tensor.name in wanted:
            weight = weights.get(tensor.name)
            graph.initializer.append(
                tensor if weight is None else weight.tensor(tensor.name, data=True)
            )
    graph.sparse_initializer.extend(
        sparse for sparse in proto.graph.sparse_initializer if sparse.values.name in wanted
    )
    known = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    for number in range(copies):
        for index in cut.nodes:
            add_copy(graph, proto.graph.node[index], wanted, number)
        for name in cut.given:
            array = arrays[name]
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(call(name, number), kind, array.shape))
        for name in cut.writes:
            info = onnx.ValueInfoProto()
            info.CopyFrom(known.get(name) or info)
            info.name = call(name, number)
            graph.output.append(info)
    return made


def add_copy(
    graph: onnx.GraphProto, node: onnx.NodeProto, shared: Collection[str], number: int
) -> None:
    """Add a copy of a node; all it reads and writes but the `shared` names are of this copy."""
    copy = graph.node.add()
    copy.CopyFrom(node)
    copy.name = call(node.name, number)
    for names in (copy.input, copy.output):
        names[:] = [name if name in shared else call(name, number) for name in names]


def call(name: str, number: int) -> str:
    """Return what a name is called in a copy: the first keeps its names, nothing has none."""
    return f"{name}/copy_{number}" if number and name else name


def can_copy(proto: onnx.ModelProto, cut: Cut) -> bool:
    """Return whether the cut can stand beside itself: bodies read names that are not renamed."""
    bodies = (body for index in cut.nodes for body in scope.subgraphs(proto.graph.node[index]))
    return bool(cut.given) and next(bodies, None) is None


def feed(cut: Cut, arrays: Mapping[str, np.ndarray], copies: int = 1) -> dict[str, np.ndarray]:
    """Return the inputs of the model that `build` returns."""
    return {call(name, k): arrays[name] for k in range(copies) for name in cut.given}
