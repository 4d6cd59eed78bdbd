"""Takes the measurements that a decision asks for: stretches by themselves, and whole models."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime

from onnx_fusion.emit import Emitted, NotConvexError, emit
from onnx_fusion.emit.write import write
from onnx_fusion.errors import VerifyError
from onnx_fusion.runtime import gate, place
from onnx_fusion.runtime.bench import PAUSE_SECONDS, runner
from onnx_fusion.runtime.duel import Outcome, duel, sample, timer_for
from onnx_fusion.runtime.session import session
from onnx_fusion.runtime.side import SILENT, Truth
from onnx_fusion.runtime.side import Side as WholeSide
from onnx_fusion.runtime.surgery import show
from onnx_fusion.runtime.verify import first_gate, weigh
from onnx_fusion.tune.cut import Cut, build, can_copy, feed, find_border, find_cut

if TYPE_CHECKING:
    from onnx_fusion.fusion.plan import Region
    from onnx_fusion.fusion.units import Unit
    from onnx_fusion.graph.load import Model
    from onnx_fusion.graph.model import Graph
    from onnx_fusion.graph.weights import Weight
    from onnx_fusion.lower import Lowered

EVICT_BYTES = 64 << 20
"""What is read between two runs of a stretch, at most: more than most last-level caches hold."""
WHOLE_SECONDS, PATIENCE = 6.0, 4.0
PART_SECONDS = 2.0
SMALL_SECONDS, MOST_COPIES = 200e-6, 16
"""A stretch that takes less than this is timed as several copies side by side, so many at most."""
SPIN_SECONDS = 0.008
"""How long threads wait awake for more work, where ONNX Runtime lets that be set: long enough for
what is read between two runs. Else they take a CPU from the other side for 50 ms and more."""
SPIN_SETTING, SPIN_SETTING_SINCE = "session.intra_op.spin_duration_us", (1, 27)
WRONG = 1e-2
"""A difference above this share of the range is wrong where no float64 value says otherwise."""
TRUTH_SECONDS = 10.0
"""What float64 values of one stretch may take."""
INSIDE = "it is inside a body"


class Unfit(Exception):
    """The stretch cannot be timed by itself; the message says why."""


class Failed(Exception):
    """What is fused does not run or computes something else; the message says which."""


@contextlib.contextmanager
def raising(kind: type[Exception]) -> Iterator[None]:
    """Raise `kind` for what goes wrong inside: ONNX Runtime's errors have no common class."""
    try:
        yield
    except (Unfit, Failed):
        raise
    except Exception as error:
        raise kind(" ".join(str(error).split())) from error


@dataclasses.dataclass(frozen=True, slots=True)
class Side:
    """A cut of a model, and whether the native library runs it."""

    proto: onnx.ModelProto
    weights: Mapping[str, Weight]
    cut: Cut
    library: bool

    def build(self, arrays: Mapping[str, np.ndarray], copies: int = 1) -> onnx.ModelProto:
        """Return the cut as a model."""
        return build(self.proto, self.weights, self.cut, arrays, copies)


@dataclasses.dataclass(slots=True)
class Measurer:
    """Measures stretches and choices of one model on the inputs given.

    `lower` turns regions into programs, `assemble` all that are chosen into the model to write.
    """

    model: Model
    graph: Graph
    source: str
    inputs: Mapping[str, np.ndarray]
    lower: Callable[[Sequence[Region]], list[Lowered]]
    assemble: Callable[[Sequence[Region]], Emitted]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    judging: float = 60.0
    truth: tuple[Cut, Truth] | None = None

    def sizes(self, unit: Unit | None) -> str:
        """Return the shapes that a stretch reads (None: the whole model) in a run on the inputs.

        Raises Unfit as `part` does.
        """
        if unit is not None and unit.graph is not self.graph:
            raise Unfit(INSIDE)
        if unit is None:
            named = [(name, array) for name, array in sorted(self.inputs.items())]
        else:
            named = [(name, self.value(name)) for name in find_border(unit.nodes).reads]
        shapes = ("x".join(map(str, np.shape(array))) for _, array in named)
        return " ".join(shape or "1" for shape in shapes)

    def part(self, unit: Unit, regions: Sequence[Region], threads: int) -> Outcome:
        """Return ONNX Runtime's time for the unit's nodes and that of the regions.

        Raises Unfit if it cannot be timed by itself, Failed if the regions do not do their work.
        """
        if unit.graph is not self.graph:
            raise Unfit(INSIDE)
        original = find_cut(self.model.proto, unit.graph, unit.nodes)
        if original is None:
            raise Unfit("it cannot be cut out")
        try:
            emitted = emit(self.model, self.graph, self.lower(regions), fallback=False)
        except NotConvexError as error:
            raise Unfit(str(error)) from None
        fused = find_cut(emitted.proto, unit.graph, unit.nodes)
        if fused is None:
            raise Unfit("it cannot be cut out once fused")
        self.capture([*original.given, *fused.given])
        return self.race(
            Side(self.model.proto, self.model.weights, original, False),
            Side(emitted.proto, emitted.weights, fused, True),
            threads,
        )

    def race(self, theirs: Side, ours: Side, threads: int) -> Outcome:
        """Return the outcome for two cuts, once their results are found to agree."""
        runs, results, seconds = [], [], 0.0
        cpus = place.choose(threads)
        for side in (theirs, ours):
            with raising(Failed if side.library else Unfit):
                made = self.session(side.build(self.arrays), threads, cpus, library=side.library)
                feeds = feed(side.cut, self.arrays)
                results.append(made.run(None, feeds))
                runs.append(runner(made, feeds))
            seconds = max(seconds, min(sample(runs[-1], 1, None, time.perf_counter) for _ in "ab"))
        self.compare(theirs, ours, *results)
        copies = 1
        if seconds < SMALL_SECONDS and all(
            can_copy(side.proto, side.cut) for side in (theirs, ours)
        ):
            copies = min(MOST_COPIES, max(1, int(SMALL_SECONDS / seconds)))
            runs = [
                runner(
                    self.session(
                        side.build(self.arrays, copies), threads, cpus, library=side.library
                    ),
                    feed(side.cut, self.arrays, copies),
                )
                for side in (theirs, ours)
            ]
        own = sum(
            self.model.weights[n].nbytes for n in theirs.cut.constants if n in self.model.weights
        )
        before = evict(min(self.footprint() - own, EVICT_BYTES))
        with place.held(cpus):
            outcome = duel(
                *runs, before=before, seconds=PART_SECONDS, pause=pause_for(threads),
                timer=timer_for(threads),
            )  # fmt: skip
        return dataclasses.replace(
            outcome, theirs=outcome.theirs / copies, ours=outcome.ours / copies
        )

    def whole(self, regions: Sequence[Region], threads: int) -> Outcome:
        """Return the original's time and that of the model with these regions fused.

        Raises Unfit, Failed as `part` does.
        """
        with tempfile.TemporaryDirectory(prefix="onnx_fusion.") as folder:
            path = str(Path(folder) / "tuned.onnx")
            emitted = self.assemble(regions)
            write(self.model, emitted, path)
            runs = []
            cpus = place.choose(threads)
            for source, library in ((self.source, False), (path, True)):
                with raising(Failed if library else Unfit):
                    made = self.session(source, threads, cpus, library=library)
                    names = {value.name for value in made.get_inputs()}
                    feeds = {name: array for name, array in self.inputs.items() if name in names}
                    runs.append(runner(made, feeds))
            with place.held(cpus):
                return duel(
                    *runs, seconds=WHOLE_SECONDS, patience=PATIENCE, most_rounds=101,
                    pause=pause_for(threads), timer=timer_for(threads),
                )  # fmt: skip

    def session(
        self, source: str | onnx.ModelProto, threads: int, cpus: Sequence[int], *, library: bool
    ) -> onnxruntime.InferenceSession:
        """Return a session as a user would make it, but that its threads stay on their CPUs."""
        options = onnxruntime.SessionOptions()
        place.assign(options, cpus)
        options.log_severity_level = SILENT
        options.add_session_config_entry(SPIN_SETTING, str(round(SPIN_SECONDS * 1e6)))
        return session(source, library=library, threads=threads, options=options)

    def compare(
        self, theirs: Side, ours: Side, wanted: Sequence[object], got: Sequence[object]
    ) -> None:
        """Raise Failed if results differ by more than `verify` allows: a wrong one must not win.

        Where there is no float64 value in time, a difference of WRONG is still allowed.
        """
        if all(first_gate(*pair)[0].passed for pair in zip(wanted, got, strict=True)):
            return
        left, right = (
            WholeSide(side.build(self.arrays), library=side.library, threads=None)
            for side in (theirs, ours)
        )
        given = feed(theirs.cut, self.arrays)
        if self.truth is None or self.truth[0] != theirs.cut:
            seconds = min(TRUTH_SECONDS, self.judging)
            self.truth = theirs.cut, Truth(left, given, seconds)
        start = time.monotonic()
        try:
            inputs = {**feed(ours.cut, self.arrays), **given}
            found = weigh(left, right, inputs, self.truth[1], wanted, got)
        except VerifyError as error:
            raise Failed(str(error)) from None
        finally:
            self.judging = max(0.0, self.judging - (time.monotonic() - start))
        for (name, (verdict, by)), *pair in zip(found.items(), wanted, got, strict=True):
            if not verdict.passed and not (by == "fp32" and is_near(*pair)):
                raise Failed(f"its results differ from ONNX Runtime's: '{name}': {verdict.reason}")

    def value(self, name: str) -> np.ndarray:
        """Return a value as it is in a run of the original on the inputs."""
        if name not in self.arrays:
            self.capture([name])
        return self.arrays[name]

    def capture(self, names: Collection[str]) -> None:
        """Keep values of a run of the original; those that are there already are not run for."""
        self.arrays.update((name, self.inputs[name]) for name in names if name in self.inputs)
        wanted = [name for name in dict.fromkeys(names) if name not in self.arrays]
        if not wanted:
            return
        original = WholeSide(self.source, library=False, threads=None, loaded=self.model)
        with raising(Unfit):
            found = original.run(self.inputs, wanted, show(original.proto, wanted))
        for name, array in zip(wanted, found, strict=True):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                raise Unfit(f"'{name}' is no tensor of numbers")
            self.arrays[name] = array

    def footprint(self) -> int:
        """Return how many bytes of weights a run of the whole model reads."""
        return sum(weight.nbytes for weight in self.model.weights.values())


def pause_for(threads: int) -> float:
    """Return the seconds after which one side's threads no longer disturb the other's."""
    if threads == 1:
        return 0.0
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    return 1.5 * SPIN_SECONDS if version >= SPIN_SETTING_SINCE else PAUSE_SECONDS


def evict(size: int) -> Callable[[], object] | None:
    """Return a function that reads so many bytes, None if they are few."""
    if size < 1 << 18:
        return None
    buffer = np.ones(size // 8, np.int64)
    return buffer.sum


def is_near(wanted: object, got: object) -> bool:
    """Return whether arrays of floats are finite in the same places, and differ in none of these by
    more than WRONG of the largest value."""
    if not (gate.is_float(wanted) and gate.is_float(got)) or np.shape(wanted) != np.shape(got):
        return False
    a, b = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return False
    if not finite.any():
        return True
    return bool(np.abs(a[finite] - b[finite]).max() <= WRONG * np.abs(a[finite]).max() + 1e-6)
