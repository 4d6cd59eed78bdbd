"""Tuning a model: what may be measured, for whom and how long, and the plan that comes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.fusion.units import Unit, compose, find_units
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.runtime.host import Host, cores, this_host
from onnx_fusion.runtime.inputs import declared_shape, make_inputs, needed
from onnx_fusion.runtime.latency import Database, Entry, read_shipped
from onnx_fusion.runtime.side import Side
from onnx_fusion.runtime.verify import SIZES, first_run
from onnx_fusion.tune.ask import Asker, Measures
from onnx_fusion.tune.cut import find_border, find_cut
from onnx_fusion.tune.decide import Decision, decide
from onnx_fusion.tune.measure import Measurer, Unfit
from onnx_fusion.tune.subject import describe, describe_all

if TYPE_CHECKING:
    from onnx_fusion.emit import Emitted
    from onnx_fusion.fusion.plan import Plan, Region
    from onnx_fusion.graph.load import Model
    from onnx_fusion.graph.model import Graph
    from onnx_fusion.lower import Lowered

BUSY = 0.3
"""A median width of the ratios' intervals that says that other work disturbed the measurements."""
SHARE_OF_PARTS = 0.7
"""How much of a budget the stretches may take; the whole model has the rest."""
SHARE_OF_JUDGING = 0.2
"""How much of it may be spent on values in float64."""
USUAL = (224, 128, None)
"""Extents for unknown dims that are tried first: small ones would measure overhead."""
MOST_CAPTURED = 1 << 30
"""Bytes of values kept from one run of the original; beyond, there is a run for each stretch."""
Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Tuning:
    """How measured latency is used. Without `measure` it is only looked up.

    `threads` are those the sessions to come will have: a stretch must not lose with any of them.
    `budget` is in seconds. `inputs` are those to measure with; else random ones, with `dims` for
    symbolic extents. `database` is the user's unless given.
    """

    measure: bool = False
    threads: tuple[int, ...] | None = None
    budget: float | None = None
    inputs: Mapping[str, np.ndarray] | None = None
    dims: Mapping[str, int] = dataclasses.field(default_factory=dict)
    database: Database | None = None
    shipped: Mapping[str, list[Entry]] | None = None
    measurer: Measures | None = None
    host: Host | None = None
    clock: Callable[[], float] = time.monotonic


@dataclasses.dataclass(frozen=True, slots=True)
class Subplans:
    """One graph of a model, the plans to choose among, and what the estimate takes."""

    graph: Graph
    plans: tuple[Plan, ...]
    expected: Plan


@dataclasses.dataclass(frozen=True, slots=True)
class Tuned:
    """The plans that measured latency chose, one for each graph, and sentences about how."""

    plans: tuple[Plan, ...]
    notes: tuple[str, ...]
    measured: int
    known: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """How this model's regions become programs, and a choice of them a model."""

    model: Model
    graph: Graph
    lower: Callable[[Sequence[Region]], list[Lowered]]
    assemble: Callable[[Sequence[Region]], Emitted]


def is_idle(tuning: Tuning) -> bool:
    """Return whether nothing is to be measured, and nothing is known on this machine."""
    if tuning.measure or (read_shipped() if tuning.shipped is None else tuning.shipped):
        return False
    return (tuning.database or Database()).is_empty()


def tune(
    tuning: Tuning, tools: Tools, graphs: Sequence[Subplans], progress: Progress
) -> Tuned | None:
    """Return the plans chosen by what was measured, None if nothing is known of this model.

    Raises OnnxFusionError if the model cannot be run. An interrupt leaves in the database what was
    measured before it.
    """
    host = tuning.host or this_host()
    database = tuning.database or Database()
    shipped = read_shipped() if tuning.shipped is None else tuning.shipped
    units = [u for one in graphs for u in find_units(one.graph, one.plans, one.expected)]
    notes: list[str] = []
    asker = Asker(database, host, tuning.threads, shipped, clock=tuning.clock)
    start = tuning.clock()
    if tuning.measure:
        asker.threads = tuning.threads or tuple(sorted({1, cores()}))
        asker.measurer = tuning.measurer or prepare(tuning, tools, units, notes)
        if tuning.budget is not None:
            asker.deadline = start + SHARE_OF_PARTS * tuning.budget

    def report(done: int, total: int) -> None:
        if done + 1 == total and tuning.budget is not None:
            asker.deadline = start + tuning.budget
        spent = tuning.clock() - start
        left = spent / done * (total - done) if done else None
        if tuning.budget is not None:
            left = min(tuning.budget - spent, left or tuning.budget)
        if tuning.measure:
            progress(f"tune {done}/{total}{clock_face(left)}", done / total)

    decision = decide(
        units,
        asker,
        lambda unit, regions: describe(unit.graph, unit.nodes, tools.lower(regions)),
        lambda regions: describe_all(
            (one.graph, tools.lower(own(one.graph, regions))) for one in graphs
        ),
        report,
    )
    if not decision.decided and not tuning.measure:
        return None
    plans = tuple(
        compose(
            one.graph, own(one.graph, decision.regions), (one.expected, *one.plans),
            [pair for pair in decision.lost if own(one.graph, pair[:1])],
        )
        for one in graphs
    )  # fmt: skip
    if tuning.measure:
        notes += sentences(units, decision, asker)
    return Tuned(plans, tuple(notes), asker.measured, asker.known)


def own(graph: Graph, regions: Sequence[Region]) -> list[Region]:
    """Return the regions that are in the graph itself."""
    members = set(graph.nodes)
    return [region for region in regions if region.nodes[0] in members]


def prepare(tuning: Tuning, tools: Tools, units: Sequence[Unit], notes: list[str]) -> Measurer:
    """Return what measures this model, on inputs it accepts; say which sizes were made up."""
    path = tools.model.path
    if path is None:
        raise OnnxFusionError("the model: only a model in a file can be tuned")
    side = Side(path, library=False, threads=None, loaded=tools.model)
    inputs = tuning.inputs
    symbols = sorted(
        {
            dim
            for value in needed(side.proto)
            for dim in declared_shape(value)
            if isinstance(dim, str)
        }
    )
    unknown = sorted(set(tuning.dims) - set(symbols))
    if unknown:
        has = ", ".join(symbols) or "none"
        raise OnnxFusionError(f"{path}: no input has a dim '{unknown[0]}'; there are {has}")
    if inputs is None and tuning.dims:
        inputs = make_inputs(side.proto, dims=tuning.dims)
        side.run(inputs)
    elif inputs is None:
        inputs, _ = first_run(side, 0, (USUAL, *SIZES))
    if symbols and tuning.inputs is None:
        found = {
            dim: size
            for value in needed(side.proto)
            for dim, size in zip(declared_shape(value), inputs[value.name].shape, strict=True)
            if isinstance(dim, str)
        }
        sizes = ", ".join(f"{dim}={size}" for dim, size in sorted(found.items()))
        notes.append(f"measured with {sizes}; --dim gives other sizes")
    measurer = Measurer(tools.model, tools.graph, path, inputs, tools.lower, tools.assemble)
    if tuning.budget is not None:
        measurer.judging = SHARE_OF_JUDGING * tuning.budget
    own = [unit for unit in units if unit.graph is tools.graph]
    names = {name for unit in own for name in find_border(unit.nodes).reads}
    if sum(irs_bytes(tools.graph.values[name]) for name in names) <= MOST_CAPTURED:
        cuts = [find_cut(tools.model.proto, unit.graph, unit.nodes) for unit in own]
        names |= {name for cut in cuts if cut is not None for name in cut.given}
        # Whatever keeps one of them from being captured is said of its stretch.
        with contextlib.suppress(Unfit):
            measurer.capture(sorted(names))
    return measurer


def clock_face(seconds: float | None) -> str:
    """Return what is left as people read it: `, 1:05 left`."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    return f", {whole // 60}:{whole % 60:02d} left"


def sentences(units: Sequence[Unit], decision: Decision, asker: Asker) -> list[str]:
    """Return what to tell about a tuning: how much was measured, and what came of it."""
    counts = asker.threads or ()
    threads = " and ".join(map(str, counts)) + (" thread" if counts == (1,) else " threads")
    taken = {region.nodes[0] for region in decision.regions}
    count = sum(any(r.nodes[0] in taken for o in u.options for r in o) for u in units)
    told = [
        f"{number(asker.measured, 'measurement')} taken, {asker.known} known, with {threads}; "
        f"{count} of {number(len(units), 'stretch', 'stretches')} fused"
    ]
    if asker.unfit:
        reason = next(iter(asker.unfit.values()))
        unfit = number(len(asker.unfit), "stretch", "stretches")
        told.append(f"{unfit} could not be timed alone: {reason}")
    if asker.spreads and statistics.median(asker.spreads) > BUSY:
        told.append(
            f"the machine was busy: intervals of {statistics.median(asker.spreads):.0%}; "
            "'latency clear' and tune again when it is quiet"
        )
    if asker.late:
        told.append("the time was up before everything was measured; another run goes on from here")
    if decision.regions and decision.whole is not None:
        each = ", ".join(f"{n}: {ours / theirs:.3f}" for n, theirs, ours in decision.whole.at)
        by_threads = f" (by threads {each})" if len(decision.whole.at) > 1 else ""
        told.append(
            f"the whole model takes {decision.whole.ratio:.3f} of the original's time{by_threads}"
        )
    elif decision.regions:
        told.append("the whole model was not timed")
    else:
        told.append("nothing is faster on this machine, so the original is written as it is")
    return told


def number(count: int, word: str, many: str = "") -> str:
    """Return `1 stretch`, `2 stretches`."""
    return f"{count} {word if count == 1 else many or f'{word}s'}"
