"""Writes nodes anew whose channels lie in another order, and joins pieces where others shuffled."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.weights import Weight
from onnx_fusion.ops.channels import CHANNEL
from onnx_fusion.passes.atoms import Family
from onnx_fusion.passes.channel_classes import Classes, flat

_SLICE_INPUT = 10
"""The opset from which a Slice's bounds are inputs."""

Run = tuple[Value, int, int]
"""A value, and where in it a piece begins and ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class Join:
    """What a value is made of: pieces, and, where they are not in its order, which place has which
    channel."""

    runs: tuple[Run, ...]
    places: np.ndarray | None = None


def reorder(
    graph: Graph, classes: Classes, families: Sequence[Family], plans: Sequence[dict[Value, Join]]
) -> None:
    """Write the nodes anew whose channels lie otherwise, and the pieces in the place of the
    families."""
    written = {v for n in graph.nodes for v in n.outputs if v is not None}
    old = {v for v in written if classes.is_moved(v)}
    gone = {node for family in families for node in family.nodes}
    build = _Builder(graph, classes)
    made: dict[Node, list[Node]] = {node: [] for node in gone}
    for family, plan in zip(families, plans, strict=True):
        for value, join in plan.items():
            made[value.producer] += build.join(value, join, _behind(value, family))
    for node in graph.nodes:
        if node not in gone and any(
            v in old or v in build.alias for v in (*node.inputs, *node.outputs)
        ):
            made[node] = [build.permuted(node)]
    graph.nodes[:] = [new for node in graph.nodes for new in made.get(node, [node])]
    _connect(graph, made, old)


def _behind(value: Value, family: Family) -> tuple[Node, ...]:
    """Return the nodes of the family that lead to a value, in order."""
    wanted, found = {value}, []
    for node in reversed(family.nodes):
        if not wanted.isdisjoint(node.outputs):
            found.append(node)
            wanted.update(v for v in node.inputs if v is not None)
    return tuple(reversed(found))


def _connect(graph: Graph, made: dict[Node, list[Node]], old: set[Value]) -> None:
    """Let values know who writes and reads them now. What is no value of the graph any more keeps
    its readers: that others read it too is a fact of the nodes that stand for new ones."""
    for node in made:
        for value in dict.fromkeys(filter(None, (*node.inputs, *node.outputs))):
            if value in old:
                continue
            if node in value.consumers:
                value.consumers.remove(node)
            if value.producer is node:
                value.producer = None
    for value in old:
        del graph.values[value.name]
    for node in itertools.chain.from_iterable(made.values()):
        edit.connect(node)
    edit.prune(graph)
    named = {name for node in graph.model.proto.graph.node for name in node.output}
    for node in itertools.chain.from_iterable(made.values()):
        for value in node.outputs:
            if value is not None and value.name in named:
                graph.restated[value.name] = tuple(_written(node))


def _written(node: Node) -> Iterator[Node]:
    """Yield the nodes that stand for this one."""
    for part in node.parts if node.body_is_parts else ():
        yield from _written(part)
    if not node.body_is_parts:
        yield node


@dataclasses.dataclass(slots=True, eq=False)
class _Builder:
    """Makes nodes that read and write channels in the order of their classes."""

    graph: Graph
    classes: Classes
    alias: dict[Value, Value] = dataclasses.field(default_factory=dict)
    moved: dict[Value, Value] = dataclasses.field(default_factory=dict)
    pieces: dict[Run, Value] = dataclasses.field(default_factory=dict)

    def value(self, value: Value | None) -> Value | None:
        """Return the value that holds the same channels in the order of the class."""
        if value in self.alias:
            return self.alias[value]
        if not self.classes.is_moved(value):
            return value
        if value not in self.moved:
            self.moved[value] = self.add(f"{value.name}_ordered", value, value.shape)
        return self.moved[value]

    def add(self, hint: str, like: Value, shape: Sequence) -> Value:
        value = Value(edit.fresh_name(self.graph, hint), like.dtype, tuple(shape))
        self.graph.values[value.name] = value
        return value

    def permuted(self, node: Node) -> Node:
        """Return the node with its values, and what is constant of them, in their orders."""
        constants: dict[Value, Value] = {}
        for group in self.classes.axes[node]:
            order = next((self.classes.order(v) for v, _ in group if v.weight is None), None)
            moved = any(self.classes.is_moved(v) for v, _ in group if v.weight is None)
            for value, axis in group if moved else ():
                if value.weight is not None:
                    constants[value] = self.constant(constants.get(value, value), axis, order)
        values = {
            v: constants.get(v) or self.value(v)
            for v in (*node.inputs, *node.outputs)
            if v is not None
        }
        new = _replaced(node, values) if not node.body_is_parts else self.parted(node, values)
        if not node.body_is_parts:
            new.parts, new.proto = (node,), None
        return new

    def parted(self, node: Node, values: dict[Value, Value]) -> Node:
        """Return a node whose parts stand for it, parts and all."""
        for part in flat(node.parts):
            for value in filter(None, part.outputs):
                if value not in values:
                    values[value] = self.add(f"{value.name}_ordered", value, value.shape or ())
        new = _replaced(node, values)
        new.parts = tuple(self.part(part, values) for part in node.parts)
        return new

    def part(self, part: Node, values: dict[Value, Value]) -> Node:
        new = _replaced(part, values)
        new.parts = (
            tuple(self.part(p, values) for p in part.parts) if part.body_is_parts else (part,)
        )
        return new

    def constant(self, value: Value, axis: int, order: np.ndarray) -> Value:
        weight = value.weight
        lazy = Weight(
            weight.code,
            weight.shape,
            weight.nbytes,
            lambda: Weight.of(np.take(weight.array(), order, axis), weight.dtype).raw(),
        )
        return edit.add_constant(self.graph, f"{value.name}_ordered", lazy)

    def join(self, value: Value, join: Join, parts: tuple[Node, ...]) -> list[Node]:
        """Return the nodes that make up a value; none if it is all of another value."""
        base, begin, end = join.runs[0]
        whole = len(join.runs) == 1 and (begin, end) == (0, base.shape[CHANNEL])
        if whole and join.places is None and not value.is_output:
            self.alias[value] = self.value(base)
            return []
        nodes: list[Node] = []
        values = [self.piece(run, nodes) for run in join.runs]
        last, output = values[0], self.value(value)
        if len(values) > 1:
            last = (
                output
                if join.places is None
                else self.add(f"{value.name}_joined", value, value.shape)
            )
            nodes.append(
                Node("Concat", "", last.name, values, [last], {"axis": CHANNEL}, frozenset())
            )
        if join.places is not None:
            weight = Weight.of(np.asarray(join.places, np.int64), DType.I64)
            places = edit.add_constant(self.graph, f"{value.name}_places", weight)
            nodes.append(
                Node(
                    "Gather",
                    "",
                    output.name,
                    [last, places],
                    [output],
                    {"axis": CHANNEL},
                    frozenset(),
                )
            )
        elif last is not output:
            nodes.append(Node("Identity", "", output.name, [last], [output], {}, frozenset()))
        nodes[-1].parts = parts
        for node in nodes:
            node.origin = frozenset().union(*(part.origin for part in parts))
        return nodes

    def piece(self, run: Run, nodes: list[Node]) -> Value:
        """Return the value that holds a piece of another, made by a node if there was none."""
        base, begin, end = run
        source = self.value(base)
        if (begin, end) == (0, base.shape[CHANNEL]):
            return source
        if run not in self.pieces:
            shape = (*base.shape[:CHANNEL], end - begin, *base.shape[CHANNEL + 1 :])
            made = self.pieces[run] = self.add(f"{base.name}_piece", base, shape)
            inputs, attrs = [source], {}
            if self.graph.opsets.get("", 1) < _SLICE_INPUT:
                attrs = {"starts": [begin], "ends": [end], "axes": [CHANNEL]}
            else:
                for name, number in (("starts", begin), ("ends", end), ("axes", CHANNEL)):
                    weight = Weight.of(np.array([number], np.int64), DType.I64)
                    inputs.append(edit.add_constant(self.graph, f"{made.name}_{name}", weight))
            nodes.append(Node("Slice", "", made.name, inputs, [made], attrs, frozenset()))
        return self.pieces[run]


def _replaced(node: Node, values: dict[Value, Value]) -> Node:
    """Return a copy of the node with other values; one that writes such has a name of its own."""
    inputs, outputs = ([values.get(v, v) for v in some] for some in (node.inputs, node.outputs))
    first = next(
        (v.name for v, old in zip(outputs, node.outputs, strict=True) if v is not old), node.name
    )
    return dataclasses.replace(node, inputs=inputs, outputs=outputs, name=first)
