"""The default policy: take what is expected to make the whole model faster, and leave the rest.

Two nodes are bound if ONNX Runtime would run them as one kernel, or hold the value between them in
the blocked layout of a convolution: a foreign node there costs a reorder on each side, or a fusion.
So are those with a value between them that the input model does not have. Bound nodes, and nodes of
one region, are taken or left together.

    [Conv - Relu - Conv - Add]   MatMul - [Add - LayerNorm]   [Mul - Exp - Sub]
     one blocked stretch               fused by ORT            a chain nobody else fuses
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from onnx_fusion.fusion import cost
from onnx_fusion.fusion.plan import Plan, Refusal, Region
from onnx_fusion.graph import scope
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.names import input_names
from onnx_fusion.ops import peer

MARGIN = 0.97
"""A stretch is taken if its estimate is at most this share of ONNX Runtime's."""
NO_LOSS = 1.02
"""Where extents are symbols it must be taken at the usual sizes, and be at most this at others."""
LEAST_GAIN = 0.03
"""Nothing is taken if all of it would save less than this share of the graph's time: it would be
noise."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """Nodes that are taken or left together, and the regions among them."""

    nodes: tuple[Node, ...]
    regions: tuple[Region, ...]

    @property
    def outside(self) -> list[Node]:
        """Return the nodes that no region covers."""
        covered = {node for region in self.regions for node in region.nodes}
        return [node for node in self.nodes if node not in covered]


@dataclasses.dataclass(frozen=True, slots=True)
class Judge:
    """What decides: the rates of both sides, and sizes at which to compare them.

    Each of `twins` has for every node of the graph the same one with extents in numbers; without
    symbols there is one, and it has the nodes themselves. The first is of the usual sizes.
    """

    ours: cost.Rates
    theirs: cost.Rates
    twins: Sequence[Mapping[Node, Node]]

    def compare(self, stretch: Stretch, twin: Mapping[Node, Node]) -> tuple[float, float]:
        """Return the seconds of the stretch taken, and left to ONNX Runtime.

        Nodes that no region covers stay in ONNX Runtime; what they hand to regions or have from
        them is reordered if they are in the blocked layout.
        """
        taken = sum(
            cost.kernel_seconds([twin[node] for node in region.nodes], self.ours)
            for region in stretch.regions
        )
        if stretch.outside:
            rest = [twin[node] for node in stretch.outside]
            taken += cost.peer_seconds(rest, self.theirs)
            taken += cost.reorder_seconds(rest, self.theirs)
        return taken, cost.peer_seconds([twin[node] for node in stretch.nodes], self.theirs)


def choose(
    plan: Plan,
    graph: Graph,
    machine: cost.Machine = cost.CPU,
    *,
    strict: bool = False,
    extents: Sequence[Mapping[str, int]] = (),
) -> Plan:
    """Return the plan with only those regions that are expected to pay; the others become refusals.

    `machine` says how fast this project's kernels and ONNX Runtime's are, `strict` which of its
    own. `extents` are numbers for the graph's symbols, the usual ones first (passes.sizes).
    """
    twins = [cost.bind(graph.nodes, one) for one in extents or ({},)]
    judge = Judge(machine.ours(strict), machine.peer, twins)
    found = [(stretch, objection(stretch, judge)) for stretch in stretches(plan, graph)]
    few = too_little([stretch for stretch, reason in found if reason is None], graph, judge)
    if few is not None:
        found = [(stretch, reason or few) for stretch, reason in found]
    kept: list[Region] = []
    refusals = list(plan.refusals)
    for stretch, reason in found:
        if reason is None:
            kept.extend(stretch.regions)
            continue
        for region in stretch.regions:
            refusals.extend(split(region, graph, reason))
    names = {region.name for region in kept}
    regions = tuple(r for r in plan.regions if r.name in names)
    renamed = tuple(dataclasses.replace(r, name=f"region_{k}") for k, r in enumerate(regions))
    return Plan(renamed, tuple(refusals), plan.opaque)


def stretches(plan: Plan, graph: Graph) -> list[Stretch]:
    """Return the connected stretches that hold a region, in the graph's order."""
    owner = {region.nodes[0]: region for region in plan.regions}
    return [
        Stretch(nodes, tuple(owner[node] for node in nodes if node in owner))
        for nodes in connect(graph, plan.regions, made_up(graph))
    ]


def made_up(graph: Graph) -> set[str]:
    """Return the names of values that the input model does not have."""
    named = scope.defined(graph.model.proto.graph) | graph.outer
    return {v.name for n in graph.nodes for v in n.outputs if v is not None} - named


def connect(
    graph: Graph, regions: Sequence[Region], inner: Collection[str] = ()
) -> list[tuple[Node, ...]]:
    """Return the sets of bound nodes that hold a region, in the graph's order.

    The regions may be those of several plans: each one's nodes are bound, also where they overlap.
    Values named in `inner` bind the nodes that write and read them.
    """
    parent = {node: node for node in graph.nodes}

    def find(node: Node) -> Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for region in regions:
        for node in region.nodes[1:]:
            parent[find(node)] = find(region.nodes[0])
    for node in graph.nodes:
        for value in node.inputs:
            producer = value.producer if value is not None else None
            if producer not in parent:
                continue
            if value.name in inner or is_bound(producer, node):
                parent[find(node)] = find(producer)
    held = {find(region.nodes[0]) for region in regions}
    nodes: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        nodes.setdefault(find(node), []).append(node)
    return [tuple(members) for root, members in nodes.items() if root in held]


def is_bound(producer: Node, consumer: Node) -> bool:
    """Return whether a border between the two would cost ONNX Runtime a reorder or a fusion."""
    if peer.fuses(producer, consumer):
        return True
    return peer.is_blocked(producer) and peer.is_blocked(consumer)


def objection(stretch: Stretch, judge: Judge) -> str | None:
    """Return why the stretch is left to ONNX Runtime, None if it is taken.

    It must pay at the usual sizes, and lose next to nothing at the others.
    """
    integers = next((n for n in stretch.nodes if peer.runs_on_integers(n)), None)
    if integers is not None:
        return f"ONNX Runtime runs {integers.op_type} on 8-bit integers"
    unknown = next((v for v in values(stretch, judge.twins[0]) if not known(v)), None)
    if unknown is not None:
        return (
            f"the extents of '{unknown.name}' are known only at run time, so nothing is estimated"
        )
    if not any(cost.flops(node) for node in stretch.nodes):
        return "it only moves data, which ONNX Runtime copies as fast"
    for twin, share in zip(judge.twins, (MARGIN, *[NO_LOSS] * len(judge.twins)), strict=False):
        ours, theirs = judge.compare(stretch, twin)
        if ours > share * theirs:
            return (
                f"expected {ours * 1e6:.1f} us fused, {theirs * 1e6:.1f} us in ONNX Runtime "
                f"(taken below {share:.0%}){sized(stretch, twin)}{joined(stretch)}"
            )
    return None


def too_little(taken: Sequence[Stretch], graph: Graph, judge: Judge) -> str | None:
    """Return why nothing is taken if all of it would save next to nothing of the graph's time."""
    for twin, least in zip(judge.twins, (LEAST_GAIN, *[0.0] * len(judge.twins)), strict=False):
        whole = cost.peer_seconds([twin[node] for node in graph.nodes], judge.theirs)
        pairs = [judge.compare(stretch, twin) for stretch in taken]
        gain = sum(theirs - ours for ours, theirs in pairs)
        if gain < least * whole:
            return f"all that would be taken saves {gain * 1e6:.1f} us of {whole * 1e6:.1f} us"
    return None


def sized(stretch: Stretch, twin: Mapping[Node, Node]) -> str:
    """Return the shape that an estimate was made for, as a reason ends with it; nothing without
    symbols."""
    last = stretch.nodes[-1]
    value = twin[last].outputs[0]
    if twin[last] is last or value is None or value.shape is None:
        return ""
    return f" where '{value.name}' is {'x'.join(map(str, value.shape))}"


def joined(stretch: Stretch) -> str:
    """Return what ends the reason if ONNX Runtime also runs nodes of the stretch that no region
    covers."""
    rest = stretch.outside
    return (
        f"; ONNX Runtime runs it together with {rest[0].op_type}, which no region covers"
        if rest
        else ""
    )


def values(stretch: Stretch, twin: Mapping[Node, Node]) -> list[Value]:
    """Return all values that the stretch's nodes write."""
    return [v for node in stretch.nodes for v in twin[node].outputs if v is not None]


def known(value: Value) -> bool:
    """Return whether every extent is a number: a stand-in size would decide by a guess."""
    return value.shape is not None and all(isinstance(d, int) for d in value.shape)


def split(region: Region, graph: Graph, reason: str) -> list[Refusal]:
    """Return refusals for the pairs of neighbours inside a region that is not taken."""
    return [Refusal(*pair, reason) for pair in pairs(region, graph)]


def pairs(region: Region, graph: Graph) -> list[tuple[str, str]]:
    """Return the names of neighbours inside a region, each pair once."""
    members = set(region.nodes)
    found = [
        (value.producer, node)
        for node in region.nodes
        for value in node.inputs
        if value is not None and value.producer in members
    ]
    model = graph.model.proto
    return [(input_names(a, model)[-1], input_names(b, model)[0]) for a, b in dict.fromkeys(found)]
