"""Answers from the database, or from measurements that go into it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from onnx_fusion.runtime.duel import Outcome
from onnx_fusion.runtime.host import Host
from onnx_fusion.runtime.latency import Database, Entry
from onnx_fusion.tune.measure import Failed, Unfit
from onnx_fusion.tune.subject import Subject

if TYPE_CHECKING:
    from onnx_fusion.fusion.plan import Region
    from onnx_fusion.fusion.units import Unit


HOPELESS = 1.25
"""A lower bound of the ratio above which other numbers of threads need not be tried."""
FLOOR = 0.02
"""The width that is added to every interval, so that no measurement counts alone."""


SIDES = ("theirs", "ours")
FAILED = Outcome(1e-3, 1e3, 1e6, 1e6, 0)
"""What is remembered of regions that do not do their work: nothing wins against it."""


class Measures(Protocol):
    """What can measure; see `measure.Measurer`."""

    def sizes(self, unit: Unit | None) -> str: ...
    def part(self, unit: Unit, regions: Sequence[Region], threads: int) -> Outcome: ...
    def whole(self, regions: Sequence[Region], threads: int) -> Outcome: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one choice: `ratio` is ours / theirs, the geometric mean over thread counts
    and sizes in which narrow intervals weigh more; `surely` is the largest lower bound, so above 1
    it is slower somewhere for certain, `perhaps` the largest upper one. `theirs` and `ours` are
    sums of seconds, `at` has them for each number of threads. `prior`: it was measured elsewhere.
    """

    ratio: float
    surely: float
    perhaps: float
    theirs: float
    ours: float
    prior: bool
    at: tuple[tuple[int, float, float], ...] = ()

    def worst(self) -> float:
        """Return the largest ratio at any number of threads."""
        return max((ours / theirs for _, theirs, ours in self.at), default=self.ratio)

    def slowest(self) -> int | None:
        """Return the number of threads at which it is the largest, None if that is not known."""
        return max(self.at, key=lambda one: one[2] / one[1], default=(None,))[0]

    def gain(self, threads: int | None) -> float:
        """Return the seconds saved with so many threads, in all if None or not known."""
        some = [one for one in self.at if one[0] == threads] or [(0, self.theirs, self.ours)]
        return sum(theirs - ours for _, theirs, ours in some)

    def words(self) -> str:
        """Return the answer as a reason gives it."""
        if self.ratio >= FAILED.ratio:
            return "tried: it does not run, or its results differ; see 'latency list'"
        where = "measured elsewhere" if self.prior else "measured"
        return (
            f"{where}: {self.ours * 1e6:.4g} us fused, {self.theirs * 1e6:.4g} us in ONNX Runtime"
        )


@dataclasses.dataclass(slots=True)
class Asker:
    """Finds or takes measurements for `threads` (None: finds those for any), and counts both.

    Without `measurer`, and once `deadline` (by `clock`) is over, it only looks up.
    """

    database: Database
    host: Host
    threads: tuple[int, ...] | None
    shipped: Mapping[str, list[Entry]] = dataclasses.field(default_factory=dict)
    measurer: Measures | None = None
    deadline: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    measured: int = 0
    known: int = 0
    late: bool = False
    unfit: dict[str, str] = dataclasses.field(default_factory=dict)
    spreads: list[float] = dataclasses.field(default_factory=list)

    def part(self, subject: Subject, unit: Unit, regions: Sequence[Region]) -> Answer | None:
        """Return what is known of a unit with these regions, None if nothing is."""
        return self._ask(
            subject, unit, lambda measurer, threads: measurer.part(unit, regions, threads)
        )

    def whole(
        self, subject: Subject, regions: Sequence[Region], late: bool = False
    ) -> Answer | None:
        """Return what is known of the whole model with these regions, None if nothing is; with
        `late` it is measured even if the time is up."""
        deadline = self.deadline
        self.deadline = float("inf") if late else deadline
        try:
            return self._ask(
                subject, None, lambda measurer, threads: measurer.whole(regions, threads)
            )
        finally:
            self.deadline = deadline

    def _ask(
        self,
        subject: Subject,
        unit: Unit | None,
        take: Callable[[Measures, int], Outcome],
    ) -> Answer | None:
        if subject.digest in self.unfit:
            return None
        try:
            shapes = self._shapes(subject, unit)
            found: list[Entry] = []
            for threads in self.threads or (None,):
                found += self._find(subject, shapes, threads, take)
                if any(entry.low > HOPELESS for entry in found):
                    break
        except Unfit as reason:
            self.unfit[subject.digest] = str(reason)
            return None
        if found:
            return summarize(found, prior=False)
        if self.measurer is not None and not self.late:
            return None
        return self._guess(subject.digest)

    def _guess(self, digest: str) -> Answer | None:
        """Return what was measured on other machines of this ISA, or with another library here."""
        known = (*self.shipped.get(digest, ()), *self.database.find(digest, None, None, None))
        same = [entry for entry in known if entry.isa == self.host.isa]
        fitting = [entry for entry in same if entry.threads in (self.threads or ())] or same
        return summarize(fitting, prior=True) if fitting else None

    def _shapes(self, subject: Subject, unit: Unit | None) -> str | None:
        if not subject.dynamic:
            return ""
        return None if self.measurer is None else self.measurer.sizes(unit)

    def _find(
        self, subject: Subject, shapes: str | None, threads: int | None, take: Callable
    ) -> list[Entry]:
        found = self.database.find(subject.digest, shapes, threads, self.host)
        if found:
            self.known += len(found)
            return found
        if self.measurer is None or threads is None:
            return []
        if self.clock() >= self.deadline:
            self.late = True
            return []
        what = subject.what
        try:
            outcome = take(self.measurer, threads)
        except Failed as reason:
            outcome, what = FAILED, f"{what}: {reason}"
        self.measured += 1
        self.spreads.append(outcome.high / outcome.low - 1)
        entry = Entry(
            subject.digest, shapes or "", threads, *dataclasses.astuple(self.host),
            outcome.theirs, outcome.ours, outcome.low, outcome.high, outcome.samples, what,
        )  # fmt: skip
        self.database.put([entry])
        return [entry]


def summarize(entries: Sequence[Entry], *, prior: bool) -> Answer:
    """Return the answer that entries give together."""
    weights = [1 / (math.log(e.high / e.low) ** 2 + FLOOR**2) for e in entries]
    logs = [weight * math.log(e.ratio) for weight, e in zip(weights, entries, strict=True)]
    theirs, ours = (sum(getattr(e, side) for e in entries) for side in SIDES)
    mean = math.exp(sum(logs) / sum(weights))
    at = tuple(
        (threads, *(sum(getattr(e, s) for e in entries if e.threads == threads) for s in SIDES))
        for threads in sorted({e.threads for e in entries})
    )
    bounds = (max(getattr(e, side) for e in entries) for side in ("low", "high"))
    return Answer(mean, *bounds, theirs, ours, prior, at)
