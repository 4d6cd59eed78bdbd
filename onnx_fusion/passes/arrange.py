"""Chooses the order in which channels lie, so that channel shuffles move nothing.

    x -- Conv -- Relu -- shuffle -- Conv -- y        the first Conv's rows of weights are permuted, so
                                                     that it writes what the shuffle gave
    a ---------------+
    x -- Conv -- b --+- Concat -- shuffle -- Split -- c ... Concat     c = a.0 b.0 a.1 b.1 ...
                                                  `-- d -- Conv        d = a.8 b.8 a.9 b.9 ...

    d' = a.8 a.9 ... b.8 b.9 ...   is a piece of a joined to a piece of b, and the Conv that reads it has its
                                   columns of weights permuted

Values that operators pass on channel by channel have one order (a class). A class whose every end
is a sum over channels, constants that give channels, or an operator that only moves them may have
any.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.sets import Sets
from onnx_fusion.graph.weights import Weight
from onnx_fusion.ops.channels import CHANNEL, shared_axes
from onnx_fusion.passes.atoms import Family, find_families

RULE = "channel-order"
ABOUT = "channels lie in an order in which shuffles of them move nothing"
LEAST_RUN = 2
"""Channels that what is joined anew must have in each piece, on average."""
_SLICE_INPUT = 10

Run = tuple[Value, int, int]
"""A value, and where in it a piece begins and ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class Join:
    """What a value is made of: pieces, and, where they are not in its order, which place has which
    channel."""

    runs: tuple[Run, ...]
    places: np.ndarray | None = None


def arrange(graph: Graph) -> Graph:
    """Remove the channel shuffles that orders of channels make unnecessary; return `graph`.

    Sums over channels are then taken in another order. What operators read and write in another
    order has a new name; other values keep name and meaning, and `graph.restated` has the new
    definitions of those that nodes with such inputs write. New nodes have what they were made of as
    `parts`. Shapes must be inferred, and `infer` and `fold` must not run afterwards.
    """
    families = [family for family in find_families(graph) if _is_plain(family)]
    taken = [family for family in families if family.mixes]
    while taken:
        classes = _Classes(graph, taken)
        plans = [_solve(family, classes) for family in taken]
        if None not in plans:
            _apply(graph, classes, taken, plans)
            break
        taken = [family for family, plan in zip(taken, plans, strict=True) if plan is not None]
    return graph


def _is_plain(family: Family) -> bool:
    """Return whether all that others read of the family has channels where they belong, and nothing
    else."""
    first, *others = (*family.bases, *(value for value, _ in _read(family)))
    kept = (first.dtype, first.shape[:CHANNEL], first.shape[CHANNEL + 1 :])
    return all(
        (value.dtype, value.shape[:CHANNEL], value.shape[CHANNEL + 1 :]) == kept for value in others
    ) and all(atoms.ids.size == value.shape[CHANNEL] for value, atoms in _read(family))


def _read(family: Family) -> Iterator[tuple[Value, object]]:
    """Yield what the family writes and others read."""
    members = set(family.nodes)
    for value, atoms in family.atoms.items():
        if value.is_output or value.captured or not members.issuperset(value.consumers):
            yield value, atoms


class _Classes(Sets):
    """Values that have one order of channels, and the orders: of each place, which channel it
    has."""

    def __init__(self, graph: Graph, families: Sequence[Family]) -> None:
        super().__init__()
        self.orders: dict[Value, np.ndarray] = {}
        self.axes = {}
        moved = {node for family in families for node in family.nodes}
        stuck: set[Value] = set()
        for node in graph.nodes:
            if node in moved:
                continue
            self.axes[node] = groups = _axes_of(node)
            known = {v for group in groups for v, axis in group if axis == CHANNEL}
            for value in (*node.inputs, *node.outputs, *node.captures):
                if value is not None and value not in known and value.weight is None:
                    stuck.add(value)
            for group in groups:
                values = [v for v, _ in group if v.weight is None]
                for value in values[1:]:
                    self.join(values[0], value)
                if any(v.weight is None and axis != CHANNEL for v, axis in group):
                    stuck.update(values)
        stuck.update(
            v for v in graph.values.values() if v.is_output or v.captured or v.producer is None
        )
        for value in stuck:
            if (
                value.shape is not None
                and len(value.shape) > CHANNEL
                and isinstance(value.shape[CHANNEL], int)
            ):
                self.orders[self.find(value)] = np.arange(value.shape[CHANNEL])

    def order(self, value: Value) -> np.ndarray | None:
        """Return the order of the value's class, None if it may still be chosen."""
        return self.orders.get(self.find(value))

    def is_moved(self, value: Value | None) -> bool:
        """Return whether the value's channels are to lie otherwise than they did."""
        if value is None or value.weight is not None:
            return False
        order = self.order(value)
        return order is not None and not np.array_equal(order, np.arange(order.size))


def _axes_of(node: Node) -> list[list[tuple[Value, int]]]:
    """Return the sets of axes that may be permuted alike, none where constants hide among the
    parts."""
    if node.body_is_parts and any(
        v is not None and v.weight is not None and v.weight.size > 1
        for part in _flat(node.parts)
        for v in part.inputs
    ):
        return []
    return shared_axes(node)


def _flat(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _flat(node.parts)


def _solve(family: Family, classes: _Classes) -> dict[Value, Join] | None:
    """Choose orders for what the family reads and is read of it; return what makes up the latter.

    Where pieces would be too short, longer ones are joined and brought into order: None if that is
    no less than half of what the family does.
    """
    read = dict(_read(family))
    uses: dict[int, list[tuple[int, int]]] = {}
    for k, (value, atoms) in enumerate(read.items()):
        order, ids = classes.order(value), atoms.ids.reshape(-1)
        for place, channel in enumerate(ids if order is None else ids[order]):
            uses.setdefault(int(channel), []).append((k, place if order is not None else -1))
    for value, ids in family.bases.items():
        if classes.order(value) is None:
            keys = [(uses.get(int(i), []), place) for place, i in enumerate(ids)]
            classes.orders[classes.find(value)] = np.array(
                sorted(range(ids.size), key=keys.__getitem__)
            )
    home = {
        int(ids[channel]): (k, place)
        for k, (value, ids) in enumerate(family.bases.items())
        for place, channel in enumerate(classes.order(value))
    }
    bases, plan = list(family.bases), {}
    for value, atoms in read.items():
        ids = atoms.ids.reshape(-1)
        if classes.order(value) is None:
            order = sorted(range(ids.size), key=lambda i: home[int(ids[i])])
            classes.orders[classes.find(value)] = np.array(order)
        places = [home[int(i)] for i in ids[classes.order(value)]]
        runs = _runs(places)
        if LEAST_RUN * len(runs) <= len(places) or len(runs) == 1:
            plan[value] = Join(tuple((bases[k], begin, end) for k, begin, end in runs))
            continue
        order = np.array(sorted(range(len(places)), key=places.__getitem__))
        runs = _runs([places[k] for k in order])
        plan[value] = Join(
            tuple((bases[k], begin, end) for k, begin, end in runs), np.argsort(order)
        )
    left = sum(join.places is not None for join in plan.values())
    return plan if 2 * left <= family.mixes else None


def _runs(places: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return the pieces that follow one another: whose, where they begin and end."""
    cuts = [
        k for k in range(1, len(places)) if places[k] != (places[k - 1][0], places[k - 1][1] + 1)
    ]
    return [
        (places[a][0], places[a][1], places[b - 1][1] + 1)
        for a, b in itertools.pairwise((0, *cuts, len(places)))
    ]


def _apply(
    graph: Graph, classes: _Classes, families: Sequence[Family], plans: Sequence[dict[Value, Join]]
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
    classes: _Classes
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
        for part in _flat(node.parts):
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
