"""The Python API: a model in, a fused model out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Sequence

import onnx

from onnx_fusion.emit import Emitted, NotConvexError, emit
from onnx_fusion.emit import refusal as no_function
from onnx_fusion.emit.write import LEAST_BYTES, fused_bytes, write
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.fusion import cost, layout
from onnx_fusion.fusion.grow import plan as plan_graph
from onnx_fusion.fusion.limit import limit
from onnx_fusion.fusion.named import check_names
from onnx_fusion.fusion.plan import Plan, Refusal, Region, join
from onnx_fusion.fusion.policy import choose
from onnx_fusion.fusion.target import Accept, Target
from onnx_fusion.fusion.template import NAMES, TEMPLATES
from onnx_fusion.graph.load import Model, load
from onnx_fusion.graph.model import Graph, walk
from onnx_fusion.graph.names import is_inside
from onnx_fusion.graph.save import to_proto
from onnx_fusion.graph.scope import every_node
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.lower import Lowered, Lowering
from onnx_fusion.ops.host import host_nodes
from onnx_fusion.passes import arrange, sources
from onnx_fusion.passes.bodies import add_bodies
from onnx_fusion.passes.functions import add_functions
from onnx_fusion.passes.pipeline import prepare
from onnx_fusion.passes.rewrite import Listed
from onnx_fusion.passes.rewrite import list_rules as list_rewrites
from onnx_fusion.passes.sizes import usual_extents
from onnx_fusion.runtime.machine import make_ptx, refusal
from onnx_fusion.tune.run import Subplans, Tools, Tuned, Tuning, is_idle, tune

POLICIES = ("default", "all")
MACHINES = {"cpu": (cost.CPU,), "cuda": (cost.CUDA,), "both": (cost.CPU, cost.CUDA)}
"""What a model can be planned for, and on which machines a region must pay then."""
Progress = Callable[[str, float], None]
Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What `optimize_file` did. Nodes in bodies count; `irs_bytes_*` are all intermediate results;
    `notes` are sentences; `files` are the paths written, the model's first."""

    nodes_before: int
    nodes_after: int
    regions: int
    irs_bytes_before: int
    irs_bytes_after: int
    seconds: float
    notes: list[str]
    files: list[str]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan and its programs, of the main graph `graph` and the bodies inside it; `tuned` says how
    measured latency came to it, if it did; `notes` are sentences about what was asked for."""

    model: Model
    graph: Graph
    plan: Plan
    lowered: tuple[Lowered, ...]
    tuned: Tuned | None = None
    notes: tuple[str, ...] = ()


def plan(
    model: str | os.PathLike | onnx.ModelProto,
    *,
    policy: str = "default",
    device: str = "cpu",
    strict: bool = False,
    skip: Collection[str] = (),
    only: Collection[str] = (),
    max_regions: int | None = None,
    disabled: Collection[str] = (),
) -> Plan:
    """Return what would be fused, and why the rest would not.

    `policy` is "all" (whatever is legal: the paper's setting) or "default" (what is expected to
    make the whole model faster, or was measured to). `device` is "cpu", "cuda" or "both": regions
    then are those that run on it, or on both, and are expected to pay there. `skip` names nodes or
    op_types to leave as they are; if `only` names any, all others are left, but for what is in
    bodies and functions named. `max_regions` keeps that many regions, the first. `disabled` names
    rules (`list_rules`) not to use. Raises ModelError, OnnxFusionError for a rule or a name that
    does not exist.
    """
    return plan_programs(
        model, policy=policy, device=device, strict=strict, skip=skip, only=only,
        max_regions=max_regions, disabled=disabled,
    ).plan  # fmt: skip


def list_rules() -> list[Listed]:
    """Return every rule that can be disabled: rewrites, the planner's templates, the layouts."""
    templates = (Listed(t.name, "template", t.about) for t in TEMPLATES)
    return [
        *list_rewrites(),
        *templates,
        Listed(layout.RULE, "exact", layout.ABOUT),
        Listed(sources.RULE, "exact", sources.ABOUT),
        Listed(arrange.RULE, "changes rounding", arrange.ABOUT),
    ]


def optimize(
    model: str | os.PathLike | onnx.ModelProto,
    *,
    policy: str = "default",
    device: str = "cpu",
    fallback: bool = True,
    strict: bool = False,
    skip: Collection[str] = (),
    only: Collection[str] = (),
    max_regions: int | None = None,
    disabled: Collection[str] = (),
    embed_ptx: bool = False,
    progress: Progress | None = None,
) -> onnx.ModelProto:
    """Return the model with its regions fused; see `plan` for the options.

    With `embed_ptx` the fused nodes carry their CUDA kernels, so that no compiler is needed later.
    With `fallback` each fused node carries a function of the original operators, so that the model
    also runs without the native library. Raises ModelError; models above protobuf's 2 GB need
    `optimize_file`.
    """
    planned = plan_programs(
        model, policy=policy, device=device, strict=strict, skip=skip, only=only,
        max_regions=max_regions, disabled=disabled, fallback=fallback, progress=progress,
    )  # fmt: skip
    emitted = _emit(_embed(planned) if embed_ptx else planned, fallback)
    return to_proto(emitted.proto, emitted.weights)


def optimize_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    policy: str = "default",
    device: str = "cpu",
    fallback: bool = True,
    strict: bool = False,
    skip: Collection[str] = (),
    only: Collection[str] = (),
    max_regions: int | None = None,
    disabled: Collection[str] = (),
    embed_ptx: bool = False,
    progress: Progress | None = None,
    tuning: Tuning | None = None,
    single_file: bool = False,
    home: str | os.PathLike | None = None,
) -> Summary:
    """Write the optimized model of `source` to `target`, atomically, and return what was done.

    Weights are written beside `target`, to `target` + ".data", if fused nodes read 16 MiB of them,
    if the model came with such a file, or if it is above 2 GB; `single_file` keeps them in the
    model. If nothing is fused and all is in one file, that is copied. `tuning` says what is
    measured first; `home` where the files will be moved to together, if not to `target`. Raises
    ModelError for a bad model, OnnxFusionError if `target` is `source` or cannot be written.
    """
    start = time.perf_counter()
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise OnnxFusionError(f"{target}: is the input itself; choose another output file")
    progress = progress or _silent
    planned = plan_programs(
        source, policy=policy, device=device, strict=strict, skip=skip, only=only,
        max_regions=max_regions, disabled=disabled, fallback=fallback, progress=progress,
        tuning=tuning,
    )  # fmt: skip
    if embed_ptx:
        progress("compile", 0.0)
        planned = _embed(planned)
    progress("emit", 0.0)
    emitted = _emit(planned, fallback)
    progress("save", 0.0)
    files = write(planned.model, emitted, target, home=home, single_file=single_file)
    progress("save", 1.0)
    return _summary(planned, emitted, policy, files, time.perf_counter() - start)


def _emit(planned: Planned, fallback: bool) -> Emitted:
    """Return the fused model, without the regions that would wait for themselves.

    A pass may find that a node does not need one of its inputs. Unfused it is written as it was,
    and waits for that input again: for a region, perhaps, that waits for the node.
    """
    fused, left_out = list(planned.lowered), []
    while True:
        try:
            made = emit(planned.model, planned.graph, fused, fallback=fallback)
        except NotConvexError as error:
            left_out += [one.region for one in fused if one.region.name == error.region]
            fused = [one for one in fused if one.region.name != error.region]
            continue
        return dataclasses.replace(made, left_out=(*made.left_out, *left_out))


def _embed(planned: Planned) -> Planned:
    """Return the plan with the CUDA kernels of each region as PTX; equal programs share one."""
    made: dict[tuple[str, Shapes], str] = {}
    lowered = []
    for one in planned.lowered:
        shapes = tuple(
            tuple(dim if isinstance(dim, int) else -1 for dim in one.physical(value))
            for value in one.inputs
        )
        key = (one.program, shapes)
        if key not in made:
            made[key] = make_ptx(*key)
        lowered.append(dataclasses.replace(one, ptx=made[key]))
    return dataclasses.replace(planned, lowered=tuple(lowered))


def _silent(step: str, fraction: float) -> None:
    """Report nothing."""


def plan_programs(
    source: str | os.PathLike | onnx.ModelProto,
    *,
    policy: str = "default",
    device: str = "cpu",
    fallback: bool = True,
    strict: bool = False,
    skip: Collection[str] = (),
    only: Collection[str] = (),
    max_regions: int | None = None,
    disabled: Collection[str] = (),
    progress: Progress | None = None,
    tuning: Tuning | None = None,
) -> Planned:
    """Return the plan with the graph it is of and each region's program; see `plan`, `optimize`."""
    progress = progress or _silent
    if device not in MACHINES:
        raise OnnxFusionError(f"device '{device}' is not one of {', '.join(MACHINES)}")
    if policy not in POLICIES:
        raise OnnxFusionError(f"policy '{policy}' is not one of {', '.join(POLICIES)}")
    unknown = sorted(set(disabled) - {rule.name for rule in list_rules()})
    if unknown:
        raise OnnxFusionError(f"{unknown[0]}: no rule has this name; see 'optimize --list-rules'")
    progress("load", 0.0)
    model = load(source)
    progress("prepare", 0.0)
    graph = prepare(model, strict=strict, disabled=disabled)
    add = add_functions if fallback else add_bodies
    left = add(graph, lambda body: prepare(body, strict=strict, disabled=disabled), skip)
    notes = [
        *check_names(model, graph, skip, "skip"),
        *check_names(model, graph, only, "only"),
    ]
    progress("plan", 0.0)

    def judge(made: Lowered) -> str | None:
        return (no_function(made, graph.opsets) if fallback else None) or refusal(
            made.program, device
        )

    lowering = Lowering(graph, judge, strict=strict, halves=device != "cpu")
    templates = NAMES - set(disabled)
    graphs = list(walk(graph))
    machines = MACHINES[device]
    extents = usual_extents(graph)
    target = Target(
        _outside(lowering.refusal, graphs) if cost.CUDA in machines else lowering.refusal,
        lambda region: lowering.lower(region).inputs,
        take_yellow=policy == "all", templates=templates, rates=machines[0].fused,
        extents=extents,
    )  # fmt: skip
    layouts = layout.RULE not in disabled
    asked = [() if is_inside(one.path, only) else only for one in graphs]
    pairs = list(zip(graphs, asked, strict=True))
    plans = [plan_graph(one, target, skip, names) for one, names in pairs]
    tuned = None
    if policy == "default":
        chosen = plans
        for machine in machines:
            both = zip(chosen, graphs, strict=True)
            chosen = [
                choose(made, one, machine, strict=strict, extents=extents) for made, one in both
            ]
        tuning = tuning or Tuning()
        if device == "cpu" and not is_idle(tuning):
            found = [
                Subplans(one, (*_alternatives(one, target, skip, names), made), expected)
                for (one, names), made, expected in zip(pairs, plans, chosen, strict=True)
            ]
            tools = _tools(model, graph, lowering, layouts, fallback)
            tuned = tune(tuning, tools, found, progress)
        plans = tuned.plans if tuned is not None else chosen
    limited, more = [], max_regions
    for made, one in zip(plans, graphs, strict=True):
        limited.append(limit(made, one, more))
        if more is not None:
            more -= len(limited[-1].regions)
    limited.append(Plan((), tuple(Refusal(one.node, one.body, one.reason) for one in left), {}))
    made = join(limited)
    lowered = _lower(lowering, made, graph, layouts)
    progress("plan", 1.0)
    return Planned(model, graph, made, lowered, tuned, tuple(notes))


def _tools(model: Model, graph: Graph, lowering: Lowering, layouts: bool, fallback: bool) -> Tools:
    def lower(regions: Sequence[Region]) -> tuple[Lowered, ...]:
        return _lower(lowering, Plan(tuple(regions), (), {}), graph, layouts)

    def assemble(regions: Sequence[Region]) -> Emitted:
        chosen = join([Plan(tuple(regions), (), {})])
        return _emit(Planned(model, graph, chosen, lower(chosen.regions)), fallback)

    return Tools(model, graph, lower, assemble)


def _outside(accept: Accept, graphs: Sequence[Graph]) -> Accept:
    """Return `accept` for regions without nodes whose results a device's provider reads on the
    host."""
    left = {node: reason for one in graphs for node, reason in host_nodes(one).items()}

    def accept_device(region: Region) -> str | None:
        return next((left[n] for n in region.nodes if n in left), None) or accept(region)

    return accept_device


def _alternatives(
    graph: Graph, target: Target, skip: Collection[str], only: Collection[str]
) -> list[Plan]:
    """Return the plans that measurement chooses among: whatever is legal, and that without each of
    the templates that it uses."""
    every = dataclasses.replace(target, take_yellow=True)
    plans = [plan_graph(graph, every, skip, only)]
    for name in sorted({region.template for region in plans[0].regions} & set(target.templates)):
        without = dataclasses.replace(every, templates=frozenset(target.templates) - {name})
        plans.append(plan_graph(graph, without, skip, only))
    return plans


def _lower(lowering: Lowering, plan: Plan, graph: Graph, layouts: bool) -> tuple[Lowered, ...]:
    """Return the regions' programs; a region that has none under its layouts keeps rows."""
    orders = {}
    home = {node: region for region in plan.regions for node in region.nodes}
    for one in walk(graph) if layouts else ():
        orders |= layout.choose_layouts(home, one)
    while True:
        refused = set()
        for region in plan.regions:
            its = {v for node in region.nodes for v in (*node.inputs, *node.outputs)}
            if its & orders.keys() and lowering.refusal(region, orders):
                refused |= its
        if not refused:
            return tuple(lowering.lower(region, orders) for region in plan.regions)
        orders = {value: order for value, order in orders.items() if value not in refused}


def _summary(
    planned: Planned, emitted: Emitted, policy: str, files: list[str], seconds: float
) -> Summary:
    nodes = [node for graph in walk(planned.graph) for node in graph.nodes]
    inner = [v for n in nodes for v in n.outputs if v is not None and not v.is_output]
    before = sum(irs_bytes(v) for v in inner)
    saved = sum(r.irs_bytes_saved for r in planned.plan.regions)
    notes = list(planned.tuned.notes) if planned.tuned is not None else []
    if not planned.plan.regions and not notes:
        reason = "nothing can be"
        if policy == "default":
            known = "was measured" if planned.tuned is not None else "is expected"
            reason = f"nothing {known} to run faster"
        notes.append(f"nothing was fused: {reason}; see 'explain --policy {policy}'")
    notes = [*planned.notes, *notes]
    if emitted.left_out:
        notes.append(
            f"{len(emitted.left_out)} regions were left out: more than 1024 are distinct, "
            "or they would wait for unfused nodes that wait for them"
        )
    twice = fused_bytes(emitted)
    if len(files) == 1 and twice >= LEAST_BYTES:
        notes.append(
            f"in a single file {twice >> 20} MiB of weights are in memory twice in every session"
        )
    return Summary(
        sum(1 for _ in every_node(planned.model.proto.graph)),
        sum(1 for _ in every_node(emitted.proto.graph)),
        len(planned.plan.regions) - len(emitted.left_out),
        before,
        before - saved,
        seconds,
        notes,
        files,
    )
