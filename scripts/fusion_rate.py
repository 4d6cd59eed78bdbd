"""Count operators before and after fusion, beside ONNX Runtime's own optimizer and the paper.

    python scripts/fusion_rate.py MODEL ... [--policy all|default] [--json]

MODEL is a path, or a name in $ZOO_DIR (default ~/.cache/onnx_fusion_zoo), as for check_zoo.py.

The counting rule, the same for all three graphs: every node counts, also those in the bodies of If,
Loop and Scan, but not Constant, Identity, Dropout, nor a node that reads only initializers and
constants. Shape arithmetic (Shape, Size, and what reads only that and constants) is counted
apart, also where something else computes it later. ONNX Runtime's graph is the one it saves under
ENABLE_ALL; after fusion each FusedRegion is one node.

`all` plans without estimates of latency (the paper's setting), `default` is what `optimize` does.
The bound is 1.15 x the original's contractions (Conv, ConvTranspose, MatMul, Gemm), plus opaque
nodes (without a row, or refused by themselves: a shape that depends on data), plus the reductions,
poolings and normalizations that are in no region with a contraction: `apart` counts these, and they
are listed below the table. IRS is the size of all intermediate results of the main graph. Seconds
are those of planning: load, infer, rewrite, plan, lower, emit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime
from check_zoo import find

from onnx_fusion import api
from onnx_fusion.cli import show
from onnx_fusion.emit import emit
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph import scope
from onnx_fusion.graph.load import load
from onnx_fusion.graph.model import Graph, walk
from onnx_fusion.graph.view import irs_bytes, view
from onnx_fusion.ops import table
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.infer import infer

CONTRACTIONS = frozenset(("Conv", "ConvTranspose", "MatMul", "Gemm"))
FREE = frozenset(("Constant", "Identity", "Dropout"))
ASKS_SHAPE = frozenset(("Shape", "Size"))
SLACK = 1.15


@dataclasses.dataclass(frozen=True, slots=True)
class Paper:
    """DNNFusion's Table 5: operators before and after, IRS in MB; for three models SmartMem's."""

    before: int
    after: int
    irs_before: int | None = None
    irs_after: int | None = None


PAPER = {
    "efficientnet_b0": Paper(309, 97, 108, 26),
    "vgg16": Paper(51, 17, 161, 52),
    "mobilenetv1_ssd": Paper(202, 71, 110, 37),
    "yolov4_320": Paper(398, 135, 329, 205),
    "c3d": Paper(27, 16, 195, 90),
    "s3d": Paper(272, 98, 996, 356),
    "unet_256": Paper(292, 82, 312, 158),
    "fasterrcnn_mbv3": Paper(3640, 942, 914, 374),
    "maskrcnn_r50": Paper(3999, 981, 1524, 543),
    "tinybert": Paper(366, 74, 183, 55),
    "distilbert": Paper(457, 109, 540, 197),
    "albert_base": Paper(936, 225, 1260, 320),
    "bert_base": Paper(976, 216, 915, 196),
    "mobilebert": Paper(2387, 510, 744, 255),
    "gpt2_prefill": Paper(2533, 254, 1389, 356),
    "swin_t": Paper(765, 158),
    "vit_b16": Paper(444, 112),
    "convnext_tiny": Paper(292, 81),
}


@dataclasses.dataclass(slots=True)
class Count:
    """Nodes that count, by operator, how many are shape arithmetic, and the values these write."""

    nodes: int = 0
    shape: int = 0
    contractions: int = 0
    extents: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """What became of one model; `apart` and `opaque` name nodes of the input model."""

    model: str
    policy: str
    before: int
    shape_before: int
    runtime: int | None
    after: int
    shape_after: int
    contractions: int
    opaque: tuple[str, ...]
    apart: tuple[str, ...]
    bound: int
    irs_before: int
    irs_after: int
    seconds: float
    paper: Paper | None


def count(model: onnx.ModelProto, extents: set[str] = frozenset()) -> Count:
    """Return a model's counts by the rule above; what writes only `extents` is shape arithmetic,
    too."""
    total = Count(extents=set(extents))
    initial = {tensor.name for tensor in model.graph.initializer}
    initial |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    if model.ir_version >= 4:
        initial -= {value.name for value in model.graph.input}
    _count_graph(model.graph, initial, set(), total)
    return total


def _count_graph(graph: onnx.GraphProto, constant: set[str], shape: set[str], total: Count) -> None:
    for node in graph.node:
        reads = scope.reads(node) - {""}
        given = constant | shape
        if node.op_type == "Constant" or (reads and reads <= constant):
            constant.update(node.output)
            continue
        arithmetic = node.op_type in ASKS_SHAPE or (bool(reads) and reads <= given)
        arithmetic |= bool(node.output) and total.extents.issuperset(node.output)
        if arithmetic:
            shape.update(node.output)
            total.extents.update(node.output)
        if node.op_type in FREE:
            continue
        total.shape += arithmetic
        total.nodes += not arithmetic
        total.contractions += not arithmetic and node.op_type in CONTRACTIONS
        for body in scope.subgraphs(node):
            inside = constant | {tensor.name for tensor in body.initializer}
            _count_graph(body, inside, set(shape), total)


def optimize_by_runtime(path: Path) -> onnx.ModelProto | None:
    """Return the graph that ONNX Runtime makes under ENABLE_ALL, None if it refuses the model."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(made)
        options.log_severity_level = 4
        # Weights go to a file of their own: the graph alone stays below protobuf's 2 GB.
        prefix = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{prefix}file_name", "weights")
        options.add_session_config_entry(f"{prefix}min_size_in_bytes", "1024")
        try:
            onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception as error:
            show.say(f"{path.name}: ONNX Runtime does not load it: {' '.join(str(error).split())}")
            return None
        return onnx.load(made, load_external_data=False)


def original_irs(path: Path) -> int:
    """Return the bytes of the original's intermediate results, constants left out."""
    graph = infer(view(load(path)))
    before = None
    while before != (before := inner_bytes(graph)):
        infer(fold(graph))
    return before


def inner_bytes(graph: Graph) -> int:
    """Return the bytes of all values that are neither constants, inputs nor outputs."""
    values = (v for node in graph.nodes for v in node.outputs)
    return sum(irs_bytes(v) for v in values if v is not None and not v.is_output and not v.weight)


def rate(path: Path, policy: str) -> Rate:
    """Return what becomes of one model under one policy."""
    start = time.perf_counter()
    planned = api.plan_programs(path, policy=policy)
    emitted = emit(planned.model, planned.graph, planned.lowered)
    seconds = time.perf_counter() - start
    before = count(onnx.load(path, load_external_data=False))
    after = count(emitted.proto, before.extents)
    opaque, apart = left_over(planned)
    main = set(planned.graph.nodes)
    saved = sum(r.irs_bytes_saved for r in planned.plan.regions if r.nodes[0] in main)
    made = optimize_by_runtime(path)
    return Rate(
        path.stem,
        policy,
        before.nodes,
        before.shape,
        count(made, before.extents).nodes if made is not None else None,
        after.nodes,
        after.shape,
        before.contractions,
        opaque,
        apart,
        math.floor(SLACK * before.contractions) + len(opaque) + len(apart),
        original_irs(path),
        inner_bytes(planned.graph) - saved,
        seconds,
        PAPER.get(path.stem.partition(".")[0]),
    )


def left_over(planned: api.Planned) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the opaque nodes, and the many-to-many ones that are in no region with a contraction.

    What only computes shapes, and thus is not in the count, is left out of both.
    """
    covered = {n: region for region in planned.plan.regions for n in region.nodes}
    opaque, apart = [], []
    for graph in walk(planned.graph):
        shape = set()
        for node in graph.nodes:
            row = table.find(node)
            reads = [v for v in (*node.inputs, *node.captures) if v is not None and not v.weight]
            if node.op_type in ASKS_SHAPE or (reads and shape.issuperset(reads)):
                shape.update(v for v in node.outputs if v is not None)
                continue
            if node.op_type in FREE:
                continue
            name = f"{node.name} ({node.op_type})"
            region = covered.get(node)
            if region is None and (row.lower is None or node.op_type not in CONTRACTIONS):
                opaque += [name] * (node.op_type not in CONTRACTIONS)
            elif row.mapping_of(node) is MappingType.MANY_TO_MANY and not (
                node.op_type in CONTRACTIONS
                or region is not None
                and any(n.op_type in CONTRACTIONS for n in region.nodes)
            ):
                apart.append(name)
    return tuple(opaque), tuple(apart)


def cells(one: Rate) -> list[str]:
    """Return a rate as the table shows it."""
    paper = one.paper
    return [
        one.model,
        str(one.before),
        str(one.shape_before),
        str(one.runtime or "-"),
        str(one.after),
        ratio(one.before, one.after),
        ratio(one.runtime, one.after),
        str(paper.before) if paper else "-",
        str(paper.after) if paper else "-",
        ratio(paper.before, paper.after) if paper else "-",
        str(one.bound) + (" exceeded" if one.after > one.bound else ""),
        str(one.contractions),
        str(len(one.opaque)),
        str(len(one.apart)),
        f"{one.irs_before / 2**20:.1f}",
        f"{one.irs_after / 2**20:.1f}",
        ratio(one.irs_before, one.irs_after),
        f"{one.seconds:.2f}",
    ]


HEAD = ["model", "before", "shape", "ORT", "after", "x", "x-ORT", "paper", "paper-after", "paper-x",
        "bound", "contractions", "opaque", "apart", "IRS-MiB", "after", "x", "s"]  # fmt: skip


def ratio(before: float | None, after: float | None) -> str:
    """Return `before / after`, `-` if either is missing."""
    return f"{before / after:.2f}" if before and after else "-"


def geomean(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    """Return the geometric mean of the quotients of the pairs that are complete."""
    logs = [math.log(a / b) for a, b in pairs if a and b]
    return math.exp(sum(logs) / len(logs)) if logs else None


def geomeans(rates: list[Rate]) -> dict[str, float | None]:
    """Return the geometric means over all models."""
    known = [one for one in rates if one.paper is not None]
    return {
        "before / after": geomean((one.before, one.after) for one in rates),
        "ONNX Runtime / after": geomean((one.runtime, one.after) for one in rates),
        "IRS before / after": geomean((one.irs_before, one.irs_after) for one in rates),
        "paper's before / after": geomean((o.paper.before, o.paper.after) for o in known),
        "paper's after / after": geomean((one.paper.after, one.after) for one in known),
        "paper's IRS": geomean((one.paper.irs_before, one.paper.irs_after) for one in known),
    }


def main() -> int:
    """Print a row for each model, what stays apart, and the geometric means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--policy", choices=api.POLICIES, default="all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    rates, failed = [], False
    try:
        paths = list(find(args.models))
    except OnnxFusionError as error:
        show.say(str(error))
        return 1
    for path in paths:
        show.say(path.name)
        try:
            rates.append(rate(path, args.policy))
        except OnnxFusionError as error:
            show.say(str(error))
            failed = True
    means = geomeans(rates)
    if args.json:
        models = [dataclasses.asdict(one) for one in rates]
        print(json.dumps({"models": models, "geomeans": means}, indent=1))
        return int(failed)
    show.table(HEAD, [cells(one) for one in rates])
    for one in rates:
        for what, names in (("opaque", one.opaque), ("apart", one.apart)):
            if names:
                print(f"{one.model}, {what}: {', '.join(names)}")
    for what, mean in means.items():
        if mean is not None:
            print(f"geomean {what}: {mean:.2f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
