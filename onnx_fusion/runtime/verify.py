"""Whether an optimized model computes what the original does, and if not, which region is wrong.

Both run on the same inputs; each output passes the fp32 gate, or the float64 gate, or follows from
values that pass. The original runs in ONNX Runtime with its default optimizations.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_fusion.errors import VerifyError
from onnx_fusion.runtime import margin
from onnx_fusion.runtime.fault import find_fault
from onnx_fusion.runtime.gate import Verdict, compare, is_float, judge
from onnx_fusion.runtime.inputs import make_inputs
from onnx_fusion.runtime.side import Side, Truth
from onnx_fusion.runtime.surgery import Decision, find_decisions, given, selects, show

SIZES = ((64, 16, None), (224, 512, None), (64, 512, 1), (320, 128, None), (32, 1, None))
"""Extents tried for unknown dims (see `make_inputs`) until the original runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """The verdict on one output: errors against plain ONNX Runtime, and the gate that decided.

    `gate` is `fp32`, `float64`, `equal` (for what is not float), `margin`, or `cut at` the values
    that were compared instead.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_error: float
    range_error: float
    gate: str
    passed: bool
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The verdict on all outputs. `fault` names the region that is wrong, where one was found."""

    outputs: tuple[Output, ...]
    notes: tuple[str, ...]
    fault: str | None
    inputs: Mapping[str, np.ndarray] = dataclasses.field(repr=False, default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every output passed."""
        return all(output.passed for output in self.outputs)

    @property
    def max_error(self) -> float:
        """The largest error over range of any output."""
        return max((output.range_error for output in self.outputs), default=0.0)

    def failure(self) -> str:
        """Return one line about the first output that failed, and the region at fault."""
        bad = [output for output in self.outputs if not output.passed]
        if not bad:
            return "passed"
        first, more = bad[0], f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        fault = f"; {self.fault}" if self.fault else ""
        return f"output '{first.name}'{more}: {first.reason}{fault}"


def verify(
    original: str | os.PathLike | onnx.ModelProto,
    optimized: str | os.PathLike | onnx.ModelProto,
    inputs: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
    library: bool = True,
    *,
    seed: int = 0,
    seconds: float = 60.0,
) -> Report:
    """Return the report on two models run on the same inputs, random ones unless given.

    Without `library` the optimized model runs through its portable functions. `seconds` bounds the
    float64 reference; where it gives no answer, an output that fails the fp32 gate has failed.
    Raises VerifyError if the models take or give different things, or one does not run.
    """
    left = Side(original, library=False, threads=threads)
    right = Side(optimized, library=library, threads=threads)
    check_signature(left, right)
    if inputs is None:
        inputs, wanted = first_run(left, seed)
    else:
        wanted = left.run(inputs)
    got = right.run(inputs)
    names = left.outputs
    truth = Truth(left, inputs, seconds)
    found = weigh(left, right, inputs, truth, wanted, got)
    outputs = tuple(
        describe(name, value, *found[name]) for name, value in zip(names, wanted, strict=True)
    )
    notes = [*truth.notes, *empty_of_meaning(names, wanted)]
    fault = None
    bad = [output.name for output in outputs if not output.passed]
    if bad:
        fault = find_fault(left, right, inputs, bad)
    return Report(outputs, tuple(dict.fromkeys(notes)), fault, dict(inputs))


def weigh(
    left: Side,
    right: Side,
    inputs: Mapping[str, np.ndarray],
    truth: Truth,
    wanted: Sequence[Any],
    got: Sequence[Any],
) -> dict[str, tuple[Verdict, str]]:
    """Return the verdict on each output of `left`, and the gate that decided, given both
    results."""
    pairs = dict(zip(left.outputs, zip(wanted, got, strict=True), strict=True))
    found = {name: first_gate(*pair) for name, pair in pairs.items()}
    failing = {name: pair for name, pair in pairs.items() if not found[name][0].passed}
    return {**found, **settle(left, right, inputs, truth, failing)} if failing else found


def check_signature(left: Side, right: Side) -> None:
    """Raise VerifyError unless both models have the same inputs and outputs."""
    for kind, ours, theirs in (
        ("inputs", left.inputs, right.inputs),
        ("outputs", left.outputs, right.outputs),
    ):
        if ours != theirs:
            raise VerifyError(
                f"{right.label}: has {kind} {', '.join(theirs) or 'none'}; "
                f"{left.label} has {', '.join(ours) or 'none'}"
            )


def first_run(
    left: Side, seed: int, sizes: Sequence[tuple[int, int, int | None]] = SIZES
) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Return random inputs that the original runs on, and its outputs."""
    tried: VerifyError | None = None
    for spatial, sequence, middle in sizes:
        inputs = make_inputs(
            left.proto, seed=seed, spatial=spatial, sequence=sequence, middle=middle
        )
        try:
            return inputs, left.run(inputs)
        except VerifyError as error:
            tried = tried or error
    raise VerifyError(f"{tried}; give inputs that it accepts")


def first_gate(wanted: Any, got: Any) -> tuple[Verdict, str]:
    """Return the fp32 or equality verdict, and which of them it is."""
    return compare(wanted, got), "fp32" if is_float(wanted) else "equal"


def describe(name: str, wanted: Any, verdict: Verdict, gate: str) -> Output:
    """Return the report's line about one output."""
    array = isinstance(wanted, np.ndarray)
    return Output(
        name,
        wanted.dtype.name if array else type(wanted).__name__,
        wanted.shape if array else (),
        verdict.max_error,
        verdict.range_error,
        gate,
        verdict.passed,
        verdict.reason,
    )


def empty_of_meaning(names: Sequence[str], wanted: Sequence[Any]) -> list[str]:
    """Return a note for each output that is nowhere finite: it passes, and says nothing."""
    return [
        f"output '{name}' is nowhere finite on these inputs, so it says nothing"
        for name, value in zip(names, wanted, strict=True)
        if is_float(value) and value.size and not np.isfinite(value.astype(np.float64)).any()
    ]


def settle(
    left: Side,
    right: Side,
    inputs: Mapping[str, np.ndarray],
    truth: Truth,
    failing: Mapping[str, tuple[Any, Any]],
) -> dict[str, tuple[Verdict, str]]:
    """Return verdicts on outputs that failed the first gate.

    What is made of floats only is judged against float64. What follows from a decision (integers,
    and all behind an operator that selects) is settled by cutting at the floats that decide.
    """
    found: dict[str, tuple[Verdict, str]] = {}
    smooth, chosen = [], []
    for name, (wanted, _) in failing.items():
        decisions = find_decisions(left.proto, [name])
        behind = any(selects(d.node) for d in decisions)
        (chosen if behind or not is_float(wanted) else smooth).append(name)
    if smooth:
        values = truth.values(smooth)
        for name in smooth:
            resolution = margin.resolution(left.proto, name)
            found[name] = against(values.get(name), *failing[name], resolution)
    if chosen:
        decisions = find_decisions(left.proto, chosen)
        wanted = {name: failing[name][0] for name in chosen}
        found |= cut(left, right, inputs, truth, decisions, wanted)
    for name in chosen:
        hidden = found[name][1] == "equal"
        if hidden and not found[name][0].passed and excuse(left, inputs, name, *failing[name]):
            found[name] = (dataclasses.replace(found[name][0], passed=True), "margin")
    return found


def against(
    truth: np.ndarray | None, wanted: Any, got: Any, resolution: float = 0.0
) -> tuple[Verdict, str]:
    """Return the float64 verdict, or the fp32 one where there is no float64 value."""
    if truth is None or not is_float(wanted) or not is_float(got):
        return first_gate(wanted, got)
    return judge(truth, wanted, got, resolution), "float64"


def cut(
    left: Side,
    right: Side,
    inputs: Mapping[str, np.ndarray],
    truth: Truth,
    decisions: Sequence[Decision],
    wanted: Mapping[str, Any],
) -> dict[str, tuple[Verdict, str]]:
    """Return verdicts on outputs behind decisions, level by level.

    The floats that decide are compared; then both models decide on the original's floats, and so
    on to the outputs, which must then be equal. A difference behind the cut is thus always real.
    """
    visible = {name for node in right.proto.graph.node for name in node.output}
    names = [n for d in decisions for n in d.floats if n in visible and n not in left.inputs]
    names = list(dict.fromkeys(names))
    level = {n: d.level for d in reversed(decisions) for n in d.floats}
    values = dict(zip(names, left.run(inputs, names, show(left.proto, names)), strict=True))
    fixed: dict[str, np.ndarray] = {}
    verdicts: dict[str, tuple[Verdict, str]] = {}
    for depth in sorted({level[name] for name in names}):
        here = [name for name in names if level[name] == depth]
        model = show(given(right.proto, fixed), here)
        got = dict(zip(here, right.run({**inputs, **fixed}, here, model), strict=True))
        verdicts |= {name: first_gate(values[name], got[name]) for name in here}
        failed = [name for name in here if not verdicts[name][0].passed]
        if failed:
            exact = truth.values(failed, fixed)
            for name in failed:
                verdicts[name] = against(exact.get(name), values[name], got[name])
        fixed |= {name: values[name] for name in here}
    where = f"cut at {', '.join(names)}" if names else "equal"
    wrong = [name for name in names if not verdicts[name][0].passed]
    rest = [name for name in wanted if name not in fixed]
    got = dict(
        zip(rest, right.run({**inputs, **fixed}, rest, given(right.proto, fixed)), strict=True)
    )
    found = {}
    late = {}
    for name in rest:
        found[name] = first_gate(wanted[name], got[name])[0], where
        if not found[name][0].passed and is_float(wanted[name]):
            late[name] = got[name]
    exact = truth.values(list(late), fixed) if late else {}
    for name, value in late.items():
        found[name] = against(exact.get(name), wanted[name], value)[0], where
    found |= {name: verdicts[name] for name in wanted if name in fixed}
    if wrong:
        error = verdicts[wrong[0]][0]
        reason = f"'{wrong[0]}', which decides it: {error.reason}"
        found = {name: (dataclasses.replace(error, reason=reason), where) for name in found}
    return found


def excuse(left: Side, inputs: Mapping[str, np.ndarray], name: str, wanted: Any, got: Any) -> bool:
    """Return whether an output differs only where its decision is within the tolerance."""
    node = margin.behind(left.proto, name)
    if node is None or not isinstance(got, np.ndarray):
        return False
    computed = [value for value in node.input if value not in left.inputs]
    fixed = {tensor.name for tensor in left.proto.graph.initializer}
    names = [value for value in computed if value and value not in fixed]
    values = dict(zip(names, left.run(inputs, names, show(left.proto, names)), strict=True))
    values |= {n: inputs[n] for n in node.input if n in inputs}
    values |= {
        t.name: onnx.numpy_helper.to_array(t)
        for t in left.proto.graph.initializer
        if t.name in node.input and t.data_location != onnx.TensorProto.EXTERNAL
    }
    if any(n not in values for n in node.input):
        return False
    return margin.excused(node, [values[n] for n in node.input], wanted, got)
