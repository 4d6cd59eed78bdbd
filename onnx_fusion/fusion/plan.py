"""What the planner returns: regions to fuse, and a reason for everything refused."""

from __future__ import annotations

import dataclasses

from onnx_fusion.graph.model import Node, Value
from onnx_fusion.ops.mapping import MappingType


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A convex set of nodes to run as one kernel (the paper's block).

    `nodes` are in topological order; `inputs` are the values read from outside, constants included, in
    the order first read; `outputs` those used outside. `anchor` is the one many-to-many node that
    decides the kernel, None if there is none. `template` names the rule that opened a red cell.
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
    """A pair of neighbours (names in the input model) that were not fused, and the sentence that says why."""

    producer: str
    consumer: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All regions, in the graph's order, all refusals, and how often each opaque op_type occurs."""

    regions: tuple[Region, ...]
    refusals: tuple[Refusal, ...]
    opaque: dict[str, int]
