"""An analytical cost model: what a set of nodes costs as one kernel, and what ONNX Runtime takes.

Measured latency is better wherever there is any; this stands in where nothing was measured. Times
are for one thread; ratios of two estimates carry over to more.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Mapping, Sequence

from onnx_fusion.fusion.apart import stands_alone
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.ops import pace, peer, table
from onnx_fusion.ops.mapping import MappingType, Role

ROWS = frozenset((Role.REDUCTION, Role.NORM, Role.SOFTMAX))
"""Roles whose time goes with the elements they read."""
TIE = 1.01
"""Fewer nodes are better where the estimate sees no difference."""


class Side(enum.Enum):
    """Whose kernels: the column of `ops.pace` that says how fast they are."""

    HERE = 0
    STRICT = 1
    THERE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does: seconds per kernel, bytes and operations per second.

    `bandwidth` holds for memory, `cached` for what stays below `cache` bytes. `overhead` is what
    one more node in the session costs, `launch` what the kernel itself adds. With a `side`,
    operators take what `ops.pace` says; else all contractions run at one rate and all else at
    another.
    """

    overhead: float
    launch: float
    bandwidth: float
    cached: float
    contraction: float = 106e9
    other: float = 32e9
    side: Side | None = None
    cache: int = 16 << 20


FUSED = Rates(overhead=0.5e-6, launch=0.7e-6, bandwidth=30e9, cached=50e9, side=Side.HERE)
FUSED_STRICT = dataclasses.replace(FUSED, side=Side.STRICT)
ONNX_RUNTIME = Rates(overhead=0.5e-6, launch=0.6e-6, bandwidth=30e9, cached=50e9, side=Side.THERE)
"""One thread of a CPU. What decides is the ratio of the first and the last."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """What decides on one kind of machine: rates of this project's kernels, the same under
    `strict`, and ONNX Runtime's."""

    fused: Rates
    strict: Rates
    peer: Rates

    def ours(self, strict: bool) -> Rates:
        """Return this project's rates."""
        return self.strict if strict else self.fused


# Of data sheets and published launch times, for a device of the A100's class: to be replaced by
# measurement. Both rows run the same tensor cores and memory; ONNX Runtime has a launch for each
# node.
_CUDA = Rates(
    overhead=1e-6, launch=2.5e-6, bandwidth=1.4e12, cached=4e12, contraction=40e12, other=10e12,
    cache=32 << 20,
)  # fmt: skip
CPU = Machine(FUSED, FUSED_STRICT, ONNX_RUNTIME)
CUDA = Machine(_CUDA, _CUDA, dataclasses.replace(_CUDA, launch=3e-6, contraction=50e12))


def bind(nodes: Sequence[Node], extents: Mapping[str, int]) -> dict[Node, Node]:
    """Return for each node one like it with extents in the place of symbols, itself if there are
    none."""
    if not extents:
        return {node: node for node in nodes}
    values: dict[Value, Value] = {}
    made: dict[Node, Node] = {}

    def value_of(value: Value | None) -> Value | None:
        if value is not None and value not in values:
            shape = value.shape and tuple(extents.get(d, d) for d in value.shape)
            values[value] = dataclasses.replace(value, shape=shape)
        return value and values[value]

    def node_of(node: Node) -> Node:
        if node not in made:
            made[node] = dataclasses.replace(
                node, inputs=[*map(value_of, node.inputs)], outputs=[*map(value_of, node.outputs)]
            )
            made[node].parts = tuple(map(node_of, node.parts))
        return made[node]

    twins = {node: node_of(node) for node in nodes}
    for value in values.values():
        value.producer = made.get(value.producer, value.producer)
        value.consumers = [made.get(user, user) for user in value.consumers]
    return twins


def elements(value: Value | None) -> int:
    """Return the number of elements; symbols count as `irs_bytes` counts them."""
    if value is None or value.dtype is None:
        return 0
    return irs_bytes(value) // value.dtype.size


def flops(node: Node) -> float:
    """Return the node's floating-point operations."""
    return table.find(node).flops_of(node) * elements(node.outputs[0])


def is_contraction(node: Node) -> bool:
    """Return whether most of the node's time goes into multiply-adds."""
    return table.find(node).is_contraction(node)


def bytes_read(value: Value, node: Node) -> int:
    """Return how much of a value the node reads: a movement operator no more than it writes."""
    size = irs_bytes(value)
    if table.find(node).flops_of(node) == 0:
        return min(size, sum(irs_bytes(v) for v in node.outputs if v is not None))
    return size


def kernel_seconds(nodes: Sequence[Node], rates: Rates) -> float:
    """Return what one kernel takes that runs these nodes."""
    return rates.overhead + rates.launch + compute_seconds(nodes, rates)


def compute_seconds(nodes: Sequence[Node], rates: Rates) -> float:
    """Return what the work itself takes: the larger of sums and memory traffic, and all other
    arithmetic."""
    members = set(nodes)
    read: dict[Value, int] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.producer not in members:
                read[value] = max(read.get(value, 0), bytes_read(value, node))
    outputs = [
        v
        for n in nodes
        for v in n.outputs
        if v is not None
        and (
            v.is_output
            or v.captured
            or len(nodes) == 1
            or any(c not in members for c in v.consumers)
        )
    ]
    hard = sum(contraction_seconds(n, rates) for n in nodes if is_contraction(n))
    easy = sum(element_seconds(n, rates) for n in nodes if not is_contraction(n))
    if rates.side in (Side.HERE, Side.STRICT):
        easy += sum(interleaved_seconds(node, members) for node in nodes)
    moved = sum(read.values()) + sum(irs_bytes(v) for v in outputs)
    seconds = min(moved, rates.cache) / rates.cached + max(0, moved - rates.cache) / rates.bandwidth
    return max(seconds, hard + easy) if rates.side is None else max(seconds, hard) + easy


def contraction_seconds(node: Node, rates: Rates) -> float:
    """Return what the sums of a contraction take."""
    product = table.find(node).product_of(node) if rates.side is not None else None
    if product is None:
        return flops(node) / rates.contraction
    if not product.flops:  # rows, columns or a depth of 0, of which `pace` takes shares
        return 0.0
    if rates.side is Side.THERE:
        return pace.run_there(product)
    rows = pace.in_rows(product)
    longer = rows if rows and stands_alone(node) else 0.0
    return pace.run_here(product, rates.side is Side.STRICT) + longer


def element_seconds(node: Node, rates: Rates, named: str = "") -> float:
    """Return what a node takes that is no contraction, beyond reading and writing, as the operator
    `named` if that is another."""
    if rates.side is None:
        return flops(node) / rates.other
    row = table.find(node)
    pair = pace.element(node, named)
    if pair is None:
        pair = pace.OTHER if row.flops_of(node) else (0.0, 0.0)
    each = pair[rates.side is Side.THERE] * 1e-9
    made = elements(node.outputs[0]) if node.outputs else 0
    if row.role_of(node) is Role.POOL:
        pools = pace.pooled(node, stands_alone(node), made)
        return pools[rates.side is Side.THERE] if pools else each * flops(node)
    if row.role_of(node) in ROWS and node.inputs:
        made = max(made, elements(node.inputs[0]))
    return each * made


def interleaved_seconds(node: Node, members: Collection[Node]) -> float:
    """Return what it takes to choose a piece for each element of a join whose axis is then cut in
    two that change places (a channel shuffle), if that axis is the innermost, as channels may
    be."""
    if node.op_type not in pace.JOINED:
        return 0.0
    value = node.outputs[0]
    axis = int(node.attrs.get("axis", 0)) % max(1, len(value.shape or ()))
    if axis not in (1, len(value.shape or ()) - 1):
        return 0.0
    for cut in value.consumers:
        made = cut.outputs[0]
        kept = (
            made is not None and (made.shape or ())[axis : axis + 1] == value.shape[axis : axis + 1]
        )
        if cut not in members or kept or mapping(cut) is not MappingType.REORGANIZE:
            continue
        if any(n in members and is_swapped(n, axis) for n in made.consumers):
            return pace.INTERLEAVED * 1e-9 * elements(value)
    return 0.0


def is_swapped(node: Node, axis: int) -> bool:
    """Return whether a Transpose brings the axis behind the one that follows it."""
    order = list(node.attrs.get("perm", ())) if mapping(node) is MappingType.SHUFFLE else []
    return axis + 1 in order and order.index(axis) > order.index(axis + 1)


def mapping(node: Node) -> MappingType:
    """Return the node's mapping type."""
    return table.find(node).mapping_of(node)


def peer_seconds(nodes: Sequence[Node], rates: Rates = ONNX_RUNTIME) -> float:
    """Return what ONNX Runtime takes for these nodes, after the fusions it makes itself, with the
    reorders between a blocked layout and rows."""
    nodes = peer.apart(nodes)
    writer = {v.name: node for node in nodes for v in node.outputs if v is not None}
    given = {
        n: [writer[v.name] for v in n.inputs if v is not None and v.name in writer] for n in nodes
    }
    free = {n: [p for p in given[n] if peer.fuses(p, n)] for n in nodes}
    gone = {p for pair in free.values() for p in pair if p.op_type in peer.TAKEN_IN}
    nodes = [n for n in nodes if n not in gone]
    given = {n: [q for p in given[n] for q in (given[p] if p in gone else [p])] for n in nodes}
    free = {n: [p for p in free[n] if p not in gone] for n in nodes}
    seconds = sum(kernel_seconds([n], rates) for n, pair in free.items() if not pair)
    if rates.side is None:
        return seconds
    seconds += sum(element_seconds(n, rates, peer.named(n, p)) for n, p in free.items() if p)
    inside = peer.blocked(nodes)
    moved = {
        producer.outputs[0]: irs_bytes(producer.outputs[0])
        for node in nodes
        for producer in given[node]
        if (node in inside) != (producer in inside) and (producer in inside or peer.slides(node))
    }
    return seconds + 2 * sum(moved.values()) / rates.cached


def reorder_seconds(nodes: Sequence[Node], rates: Rates) -> float:
    """Return what it takes to bring all that nodes in the blocked layout read and write there and
    back."""
    if rates.side is None:
        return 0.0
    inside = [n for n in nodes if peer.is_blocked(n)]
    made = {v.name for n in inside for v in n.outputs if v is not None}
    values = {v.name: v for n in inside for v in (n.inputs[0], n.outputs[0]) if v is not None}
    read = {v.name for n in inside for v in n.inputs if v is not None}
    border = [v for name, v in values.items() if (name in made) != (name in read) or v.is_output]
    return 2 * sum(map(irs_bytes, border)) / rates.cached


def pays(block: Sequence[Node], node: Node, rates: Rates = FUSED) -> bool:
    """Return whether `node` is expected to run faster inside the block than apart from it (a yellow
    cell).

    What a one-to-many operator reads is computed as often as it is repeated, or stored once.
    """
    members = (*block, node)
    before = kernel_seconds(block, rates) + kernel_seconds([node], rates)
    spread = 1.0
    for member in members:
        if mapping(member) is MappingType.ONE_TO_MANY:
            sources = [elements(v) for v in member.inputs if v is not None and v.weight is None]
            largest = max(sources, default=0)
            if largest:
                spread = max(spread, elements(member.outputs[0]) / largest)
    again = 0.0
    if not any(map(is_contraction, members)):
        most = max(elements(member.outputs[0]) for member in members)
        small = [m for m in members if elements(m.outputs[0]) * spread <= most]
        stored = sum(2 * irs_bytes(m.outputs[0]) for m in small) / rates.cached
        again = min((spread - 1) * sum(element_seconds(m, rates) for m in small), stored)
    return kernel_seconds(members, rates) + again <= TIE * before
