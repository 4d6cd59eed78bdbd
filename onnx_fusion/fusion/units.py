"""What is taken or left as a whole, and in which ways it can be taken.

Several plans of one graph (with a template and without, say) cut it into regions differently. A
unit is a set of nodes that no region of any of the plans, no fusion or blocked layout of ONNX
Runtime, and no value that the input model does not have, crosses; each plan's regions inside it are
one option.

    plan 1    [a b] [c]   [d]         the units are {a, b, c} and {d}
    plan 2    [a] [b c]   [d]         the first has two options, the second one
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnx_fusion.fusion import policy
from onnx_fusion.fusion.plan import Plan, Refusal, Region
from onnx_fusion.graph.model import Graph, Node


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Nodes that are taken or left together. `options` are the ways to take them, at least one;
    `expected` is what the estimate takes of them, perhaps nothing."""

    graph: Graph
    nodes: tuple[Node, ...]
    options: tuple[tuple[Region, ...], ...]
    expected: tuple[Region, ...]


def find_units(graph: Graph, plans: Sequence[Plan], expected: Plan) -> list[Unit]:
    """Return the units of a graph that hold a region, in the graph's order.

    Options are in the order of `plans`; those that fuse the same sets of nodes are one.
    """
    units = []
    regions = [region for plan in (*plans, expected) for region in plan.regions]
    for nodes in policy.connect(graph, regions, policy.made_up(graph)):
        options: dict[frozenset[tuple[Node, ...]], tuple[Region, ...]] = {}
        for plan in plans:
            inside = within(plan, nodes)
            if inside:
                options.setdefault(frozenset(r.nodes for r in inside), inside)
        if options:
            units.append(Unit(graph, nodes, tuple(options.values()), within(expected, nodes)))
    return units


def within(plan: Plan, nodes: Sequence[Node]) -> tuple[Region, ...]:
    """Return the plan's regions inside these nodes."""
    members = set(nodes)
    return tuple(region for region in plan.regions if region.nodes[0] in members)


def compose(
    graph: Graph,
    chosen: Sequence[Region],
    plans: Sequence[Plan],
    lost: Sequence[tuple[Region, str]] = (),
) -> Plan:
    """Return the plan of the chosen regions; what they leave apart is refused with a reason.

    `lost` are regions that were measured and are not taken, and why; other reasons are the plans',
    the first that has one.
    """
    position = {node: k for k, node in enumerate(graph.nodes)}
    ordered = sorted(chosen, key=lambda region: position[region.nodes[0]])
    fused = {pair for region in ordered for pair in policy.pairs(region, graph)}
    reasons: dict[tuple[str, str], str] = {}
    for region, reason in lost:
        for pair in policy.pairs(region, graph):
            reasons.setdefault(pair, reason)
    for plan in plans:
        for refusal in plan.refusals:
            reasons.setdefault((refusal.producer, refusal.consumer), refusal.reason)
    refusals = tuple(
        Refusal(*pair, reason) for pair, reason in reasons.items() if pair not in fused
    )
    renamed = tuple(
        dataclasses.replace(region, name=f"region_{k}") for k, region in enumerate(ordered)
    )
    return Plan(renamed, refusals, plans[0].opaque)
