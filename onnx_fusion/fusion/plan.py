"""What the planner returns: regions to fuse, and a reason for everything refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from onnx_fusion.graph.model import Node, Value
from onnx_fusion.ops.mapping import MappingType


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A convex set of nodes to run as one kernel (the paper's block).

    `nodes` are in topological order; `inputs` are the values read from outside, constants included,
    in the order first read; `outputs` those used outside. `anchor` is the one many-to-many node
    that decides the kernel, None if there is none. `template` names the rule that opened a red
    cell.
    """

    name: str
    nodes: tuple[Node, ...]
    mapping_type: MappingType
    anchor: Node | None
    template: str | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    irs_bytes_saved: int


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A pair of neighbours (names in the input model) that were not fused, and the sentence that
    says why."""

    producer: str
    consumer: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All regions, in the graph's order, all refusals, and how often each opaque op_type occurs."""

    regions: tuple[Region, ...]
    refusals: tuple[Refusal, ...]
    opaque: dict[str, int]


def join(plans: Iterable[Plan]) -> Plan:
    """Return the plans of several graphs, a model's main graph and its bodies, as one: regions are
    numbered through."""
    plans = list(plans)
    regions = [region for plan in plans for region in plan.regions]
    named = tuple(dataclasses.replace(r, name=f"region_{k}") for k, r in enumerate(regions))
    opaque: Counter[str] = Counter()
    for plan in plans:
        opaque.update(plan.opaque)
    refusals = tuple(refusal for plan in plans for refusal in plan.refusals)
    return Plan(named, refusals, dict(sorted(opaque.items())))
