"""No more than a number of regions, for finding out which one does harm."""

from __future__ import annotations

from onnx_fusion.fusion.plan import Plan
from onnx_fusion.fusion.policy import split
from onnx_fusion.graph.model import Graph


def limit(plan: Plan, graph: Graph, most: int | None) -> Plan:
    """Return the plan with its first `most` regions; the pairs inside others become refusals."""
    if most is None or len(plan.regions) <= most:
        return plan
    refusals = list(plan.refusals)
    for region in plan.regions[most:]:
        refusals += split(region, graph, "as many regions as were allowed come before it")
    return Plan(plan.regions[:most], tuple(refusals), plan.opaque)
