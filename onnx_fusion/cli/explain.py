"""`explain IN`: every region and every refusal, in names of the input model."""

from __future__ import annotations

import argparse
import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnx_fusion.cli import show
from onnx_fusion.cli.optimize import add_planning, planning
from onnx_fusion.cli.page import write_dot, write_html
from onnx_fusion.cli.sketch import mapping_name
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.fusion.plan import Region
from onnx_fusion.graph.model import walk
from onnx_fusion.graph.names import all_names, input_names, node_name
from onnx_fusion.ops import table

if TYPE_CHECKING:
    from onnx_fusion.api import Planned


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("explain", help="show what would be fused, and why the rest not")
    parser.add_argument("source", metavar="IN", help="the model to read")
    add_planning(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--html", metavar="FILE", help="write a page that draws the plan")
    parser.add_argument("--dot", metavar="FILE", help="write the plan for Graphviz")
    parser.add_argument("--node", metavar="NAME", help="say of one node why it is where it is")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan, or what is asked of it, to stdout, or write it to the files named."""
    from onnx_fusion.api import plan_programs

    for target in filter(None, (args.html, args.dot)):
        show.refuse_same(args.source, target)
    if args.html and args.dot and os.path.abspath(args.html) == os.path.abspath(args.dot):
        raise OnnxFusionError(f"{args.dot}: is what --html names too; choose two files")
    planned = plan_programs(args.source, **planning(args))
    for note in planned.notes:
        show.say(note)
    title = f"{Path(args.source).name}, policy {args.policy}"
    if args.html:
        write(args.html, write_html(planned, title))
    if args.dot:
        write(args.dot, write_dot(planned, title))
    if args.node:
        print_node(planned, args.node)
    elif args.json:
        print(json.dumps(describe(planned), indent=1))
    elif not args.html and not args.dot:
        print_text(planned)
    return 0


def write(target: str, text: str) -> None:
    """Write a file whole or not at all."""
    path = Path(target)
    made = path.parent / f".{path.name}.{os.getpid()}"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        made.write_text(text, encoding="utf-8")
        os.replace(made, path)
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise OnnxFusionError(f"{target}: cannot be written: {said}") from None
    finally:
        made.unlink(missing_ok=True)


def print_node(planned: Planned, name: str) -> None:
    """Print where a node of the input model went, its neighbours, and why they are apart."""
    model = planned.model.proto
    found = [
        (graph, node)
        for graph in walk(planned.graph)
        for node in graph.nodes
        if name in input_names(node, model)
    ]
    if not found:
        if any(name == node_name(node, k) for k, node in enumerate(model.graph.node)):
            print(f"{name}: not in the planned graph: folded into a constant, or rewritten away")
            return
        raise OnnxFusionError(f"{name}: no node has this name; see 'explain --json' for names")
    for _, node in found:
        names = input_names(node, model)
        kind = mapping_name(node)
        made_of = f", made of {', '.join(names)}" if len(names) > 1 else ""
        print(f"{name}: {node.op_type}, {kind}{made_of}")
        region = next((r for r in planned.plan.regions if node in r.nodes), None)
        if region is None:
            reason = table.find(node).reason
            print("  in no region" + (f": {reason}" if reason else ""))
        else:
            told = describe_region(region, model)
            by = f", template {told['template']}" if told["template"] else ""
            print(f"  in {region.name} ({told['mapping_type']}{by}): {', '.join(told['nodes'])}")
        for refusal in planned.plan.refusals:
            if refusal.producer in names or refusal.consumer in names:
                print(f"  {refusal.producer} -> {refusal.consumer}: {refusal.reason}")


def describe(planned: Planned) -> dict[str, Any]:
    """Return the plan as what `--json` prints; `layouts` has the order of dims of what is no
    row."""
    plan, model = planned.plan, planned.model.proto
    return {
        "regions": [
            describe_region(one.region, model)
            | {"layouts": {value.name: list(order) for value, order in one.layouts.items()}}
            for one in planned.lowered
        ],
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


def print_text(planned: Planned) -> None:
    """Print a paragraph for each region, a line for each refusal, and the opaque operators."""
    plan = planned.plan
    for one in planned.lowered:
        region = one.region
        told = describe_region(region, planned.model.proto)
        by = f", template {told['template']}" if told["template"] else ""
        at = f", anchor {told['anchor']}" if told["anchor"] else ""
        saved = show.amount(told["irs_bytes_saved"])
        print(f"{told['name']}: {told['mapping_type']}{at}{by}, saves {saved}")
        print(f"  nodes    {', '.join(told['nodes'])}")
        print(f"  inputs   {', '.join(show.label(value, one) for value in region.inputs)}")
        print(f"  outputs  {', '.join(show.label(value, one) for value in region.outputs)}")
    if plan.refusals:
        print("not fused:")
    for refusal in plan.refusals:
        print(f"  {refusal.producer} -> {refusal.consumer}: {refusal.reason}")
    if plan.opaque:
        counts = ", ".join(f"{count} {op}" for op, count in sorted(plan.opaque.items()))
        print(f"opaque: {counts}")
    if not plan.regions:
        print("no regions")
