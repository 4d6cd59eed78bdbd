"""`explain IN`: every region and every refusal, in names of the input model."""

from __future__ import annotations

import argparse
import json
from typing import Any

import onnx

from onnx_fusion.cli import show
from onnx_fusion.cli.optimize import add_planning
from onnx_fusion.fusion.plan import Plan, Region
from onnx_fusion.graph.names import all_names, input_names


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("explain", help="show what would be fused, and why the rest not")
    parser.add_argument("source", metavar="IN", help="the model to read")
    add_planning(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan to stdout."""
    from onnx_fusion.api import plan

    made = plan(args.source, policy=args.policy, strict=args.strict, skip=tuple(args.skip))
    model = onnx.load(args.source, load_external_data=False)
    if args.json:
        print(json.dumps(describe(made, model), indent=1))
    else:
        print_text(made, model)
    return 0


def describe(plan: Plan, model: onnx.ModelProto) -> dict[str, Any]:
    """Return the plan as what `--json` prints."""
    return {
        "regions": [describe_region(region, model) for region in plan.regions],
        "refusals": [
            {"producer": r.producer, "consumer": r.consumer, "reason": r.reason}
            for r in plan.refusals
        ],
        "opaque": dict(sorted(plan.opaque.items())),
    }


def describe_region(region: Region, model: onnx.ModelProto) -> dict[str, Any]:
    """Return one region; `anchor` is the contraction's name in the input model, or None.

    A node folded into the anchor (BatchNormalization into Conv) is in `nodes`, but not the anchor.
    """
    anchor = input_names(region.anchor, model) if region.anchor else []
    own = region.anchor.name if region.anchor else None
    return {
        "name": region.name,
        "nodes": all_names(region.nodes, model),
        "mapping_type": str(getattr(region.mapping_type, "value", region.mapping_type)),
        "anchor": own if own in anchor else next(iter(anchor), None),
        "template": region.template,
        "irs_bytes_saved": region.irs_bytes_saved,
    }


def print_text(plan: Plan, model: onnx.ModelProto) -> None:
    """Print a paragraph for each region, a line for each refusal, and the opaque operators."""
    for region in plan.regions:
        told = describe_region(region, model)
        by = f", template {told['template']}" if told["template"] else ""
        at = f", anchor {told['anchor']}" if told["anchor"] else ""
        saved = show.amount(told["irs_bytes_saved"])
        print(f"{told['name']}: {told['mapping_type']}{at}{by}, saves {saved}")
        print(f"  nodes    {', '.join(told['nodes'])}")
        print(f"  inputs   {', '.join(value.name for value in region.inputs)}")
        print(f"  outputs  {', '.join(value.name for value in region.outputs)}")
    if plan.refusals:
        print("not fused:")
    for refusal in plan.refusals:
        print(f"  {refusal.producer} -> {refusal.consumer}: {refusal.reason}")
    if plan.opaque:
        counts = ", ".join(f"{count} {op}" for op, count in sorted(plan.opaque.items()))
        print(f"opaque: {counts}")
    if not plan.regions:
        print("no regions")
