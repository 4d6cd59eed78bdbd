"""Lets shape arithmetic read the graph's inputs instead of what is computed on the way.

    ids[B, S] - Gather - Add - h[B, S, 768] -+------------------------- Reshape - [B, S, 12, 64]
                                             +- Shape - Gather - Concat -+

    h - Reshape [0, 0, 12, 64]        and for what is no Reshape: ids - Shape - Gather - Concat

Whoever waits for the shape of a region's inner value is on a path out of the region, so what comes
back from there cannot be in it: one Shape cuts a region in two.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.model import Dim, Graph, Node, Value
from onnx_fusion.graph.weights import Weight
from onnx_fusion.ops import table
from onnx_fusion.passes.elements import elements

RULE = "input-shape"
ABOUT = "the shape of an inner value is read from the graph's inputs"

Piece = int | tuple[Value, int]
"""One element of a shape tensor: a number, or an axis of an input."""


def read_sources(graph: Graph) -> Graph:
    """Let shape tensors that are made of extents of the graph's inputs read those; return `graph`.

    A Reshape that keeps its input's unknown extents where they are, or has one, has a constant
    target. An extent is an input's if it has the same symbol and the value depends on that input.
    What a Shape of a value that can be in a region gives is written anew, or, if its extents are
    not those of one input, what is taken from it. Values keep their names; `graph.restated` has
    their new definitions. Shapes must be inferred, and `infer` and `fold` must not run afterwards.
    """
    for node in graph.nodes:
        _keep_extents(graph, node)
    shapes = [node for node in graph.nodes if _is_inner(node)]
    if not shapes:
        return graph
    homes = _Homes(graph)
    made: dict[Node, list[Node]] = {}
    for node in shapes:
        value = node.outputs[0]
        pieces = homes.find(value)
        if pieces is not None and len(_runs(pieces)) == 1:
            made[node] = _state(homes, node, node, pieces)
            continue
        for user in list(value.consumers):
            taken = homes.find(user.outputs[0]) if len(user.outputs) == 1 else None
            if taken is not None and user not in made and not user.captures:
                made[user] = _state(homes, user, node, taken)
        if value.consumers or value.is_output or value.captured:
            if pieces is not None:
                made[node] = _state(homes, node, node, pieces)
        else:
            made[node] = []
            edit.disconnect([node])
    graph.nodes[:] = [
        *homes.shapes.values(),
        *(n for node in graph.nodes for n in made.get(node, [node])),
    ]
    edit.prune(graph)
    return graph


def _keep_extents(graph: Graph, node: Node) -> None:
    """Give a Reshape a constant target if it keeps, where they are, the extents that are not known,
    or has one such extent.

    A target of 0 stands for the extent of the input (ONNX spec, Reshape), of an empty one too; -1
    for what the others leave, and they must not be empty.
    """
    if node.op_type != "Reshape" or node.domain or len(node.inputs) < 2 or node.captures:
        return
    x, target = node.inputs[:2]
    if target.weight is not None or x.shape is None:
        return
    held = elements(target)
    kept = [
        0 if isinstance(dim, str) and dim == dict(enumerate(x.shape)).get(axis) else dim
        for axis, dim in enumerate(held or ())
    ]
    open_axes = [axis for axis, dim in enumerate(kept) if not isinstance(dim, int)]
    if len(open_axes) == 1 and all(dim > 0 for dim in kept if isinstance(dim, int)):
        kept[open_axes.pop()] = -1
    if held is None or open_axes or any(dim == 0 == held[axis] for axis, dim in enumerate(kept)):
        return
    weight = Weight.of(np.array(kept, np.int64), DType.I64)
    edit.disconnect([node])
    node.inputs[1] = edit.add_constant(graph, f"{target.name}_kept", weight)
    edit.connect(node)
    if node.attrs.get("allowzero", 0):
        node.attrs = {key: value for key, value in node.attrs.items() if key != "allowzero"}
        node.proto = None


def _is_inner(node: Node) -> bool:
    """True for the Shape of a value that a region may hold."""
    if node.op_type != "Shape" or node.domain or node.outputs[0] is None:
        return False
    maker = node.inputs[0].producer
    return maker is not None and table.find(maker).lower is not None


class _Homes:
    """Which axes of the graph's inputs have a symbol for extent, and which inputs a value depends
    on.

    `shapes` are the nodes that give the inputs' shapes, one for each input that was asked for.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[Value, Node] = {}
        self.axes: dict[Dim, list[tuple[Value, int]]] = {}
        bit = {}
        for k, value in enumerate(graph.inputs):
            bit[value] = 1 << k
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, str) and value.dtype is not None:
                    self.axes.setdefault(dim, []).append((value, axis))
        self.behind: dict[Value, int] = bit
        for node in graph.nodes:
            mask = 0
            for value in (*node.inputs, *node.captures):
                mask |= bit.get(value, 0)
            if mask:
                bit.update((value, mask) for value in node.outputs if value is not None)

    def find(self, value: Value | None) -> list[Piece] | None:
        """Return what the elements of a tensor made from a Shape are, None if one is not known."""
        known = elements(value) if value is not None and value.dtype is DType.I64 else None
        if not known or value.shape is None:
            return None
        pieces: list[Piece] = []
        mask = self.behind.get(value, 0)
        for dim in known:
            homes = [home for home in self.axes.get(dim, ()) if mask & self.behind[home[0]]]
            if not isinstance(dim, int) and not homes:
                return None
            pieces.append(dim if isinstance(dim, int) else homes[0])
        given = {piece[0]: None for piece in pieces if not isinstance(piece, int)}
        for home in given:
            if list(home.shape) == known:
                return [(home, axis) for axis in range(len(known))]
        return pieces if given else None

    def shape_of(self, home: Value, old: Node) -> Value:
        """Return the value that has the input's shape, and serves where `old` did."""
        if home not in self.shapes:
            value = self.new_value(f"{home.name}_shape", len(home.shape))
            self.shapes[home] = Node("Shape", "", value.name, [home], [value], {}, frozenset())
            self.enter(value, [self.shapes[home]])
        node = self.shapes[home]
        node.origin |= old.origin
        return node.outputs[0]

    def new_value(self, hint: str, count: int) -> Value:
        value = Value(edit.fresh_name(self.graph, hint), DType.I64, (count,))
        self.graph.values[value.name] = value
        return value

    def enter(self, value: Value, nodes: list[Node]) -> None:
        """Make the nodes that define `value` known to the graph, and to what is written of it."""
        self.graph.restated[value.name] = tuple(
            dataclasses.replace(node, inputs=[*node.inputs], outputs=[*node.outputs])
            for node in nodes
        )
        for node in nodes:
            edit.connect(node)


def _runs(pieces: list[Piece]) -> list[list[Piece]]:
    """Return the pieces in groups that one node gives: numbers, or axes of one input."""
    grouped = itertools.groupby(pieces, lambda p: None if isinstance(p, int) else p[0].name)
    return [list(group) for _, group in grouped]


def _state(homes: _Homes, old: Node, shape: Node, pieces: list[Piece]) -> list[Node]:
    """Return the nodes that define from now on, in order, what `old` did, with the help of
    `shape`."""
    edit.disconnect([old])
    graph, value = homes.graph, old.outputs[0]
    nodes: list[Node] = []

    def add(op_type: str, inputs: list[Value], count: int, target: Value | None, **attrs) -> Value:
        target = target or homes.new_value(f"{value.name}_source", count)
        nodes.append(Node(op_type, "", target.name, inputs, [target], attrs, old.origin))
        return target

    def number(data: int | list[int]) -> Value:
        weight = Weight.of(np.array(data, np.int64), DType.I64)
        return edit.add_constant(graph, f"{value.name}_number", weight)

    def run(group: list[Piece], target: Value | None) -> Value:
        if isinstance(group[0], int):
            return number(group)
        home, axes = group[0][0], [axis for _, axis in group]
        scalar = target is not None and target.shape == ()
        every = axes == list(range(len(home.shape))) and not scalar
        if every and target is not None:
            return add("Shape", [home], len(axes), target)
        whole = homes.shape_of(home, shape)
        if every:
            return whole
        return add(
            "Gather", [whole, number(axes[0] if scalar else axes)], len(axes), target, axis=0
        )

    runs = _runs(pieces)
    if len(runs) > 1:
        add("Concat", [run(group, None) for group in runs], len(pieces), value, axis=0)
    else:
        run(runs[0], value)
    homes.enter(value, nodes)
    return nodes
