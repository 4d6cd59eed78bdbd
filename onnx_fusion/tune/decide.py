"""Which units to take, decided by measured latency (DNNFusion, section 4.3, completed by a last
word for the whole model).

1. Each unit by itself, fused in each of its ways against ONNX Runtime; of a large one also without
   each of its quarters, which it then leaves to ONNX Runtime. Taken if it wins clearly.
2. The whole model with what was taken, also with the near losers and what cannot be timed by itself
   (a layout may pay only where neighbours have it), and with what the estimate takes: the best one
   counts. The fastest of many ways by measurement is often only the luckiest.
3. If the whole is not faster than the original, or is slower at one of the numbers of threads asked
   for, those with the least benefit there are put back, twice as many each time, until it is
   faster, or nothing is left.

Every step is a function of the input and of the answers: the same database gives the same choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from onnx_fusion.fusion import cost
from onnx_fusion.tune.ask import Answer, Asker
from onnx_fusion.tune.subject import Subject

if TYPE_CHECKING:
    from onnx_fusion.fusion.plan import Region
    from onnx_fusion.fusion.units import Unit

TAKEN = 0.97
"""A unit measured here is taken below this share of ONNX Runtime's time."""
TAKEN_BY_PRIOR = 0.95
"""The same for what was measured on another machine."""
NEAR = 1.1
"""Up to this, a unit that loses is tried again as part of the whole."""
LOSES, WHOLE_LOSES = 1.02, 1.01
"""A unit, or a model, is not taken above this share of the time at any number of threads."""
WHOLE = 0.99
"""A model is worth writing below this share of the original's time."""
WHOLE_PERHAPS = 1.03
"""Nor one that may take more than this share at any, by the interval that was measured."""
LARGE = 8
"""A unit of so many regions is also tried without each of its quarters."""
OTHERWISE, OTHERWISE_BY_PRIOR = 0.97, 0.9
"""Another way to take a unit, or to leave out a quarter, must be below this share of the first; the
second where one of them was measured on another machine: often no whole is timed in the end."""
CLEARLY_BETTER = 0.99
"""Another choice for the whole counts if it is below this share of what was taken."""

Choice = dict[int, tuple["Region", ...]]
Describe = Callable[["Unit", Sequence["Region"]], Subject]
DescribeAll = Callable[[Sequence["Region"]], Subject]
Report = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The regions to fuse, those measured and lost with the reason, and what is known of the whole.

    `decided` is False if nothing was known, so that the estimate stands as it was.
    """

    regions: tuple[Region, ...]
    lost: tuple[tuple[Region, str], ...]
    whole: Answer | None
    decided: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Best:
    """The best way known to take a unit."""

    regions: tuple[Region, ...]
    answer: Answer


def decide(
    units: Sequence[Unit],
    asker: Asker,
    describe: Describe,
    describe_all: DescribeAll,
    report: Report = lambda done, total: None,
) -> Decision:
    """Return what to take of the units; what nothing is known of is left to the estimate.

    Since a budget may end, each is first asked about in the way that the estimate takes, and those
    that take the longest with all that are equal to them come first.
    """
    subjects = [describe(unit, ways(unit)[0]) for unit in units]
    order = rank(units, [subject.digest for subject in subjects])
    total = 2 * len(order) + 1
    first: dict[int, Answer | None] = {}
    for done, k in enumerate(order):
        report(done, total)
        first[k] = asker.part(subjects[k], units[k], ways(units[k])[0])
    best: dict[int, Best] = {}
    for done, k in enumerate(order, len(order)):
        report(done, total)
        found = find_best(units[k], first[k], asker, describe)
        if found is not None:
            best[k] = found
    report(total - 1, total)
    taken: Choice = {k: u.expected for k, u in enumerate(units) if k not in best and u.expected}
    taken |= {k: one.regions for k, one in best.items() if wins(one.answer)}
    near = {k: one.regions for k, one in best.items() if one.answer.ratio <= NEAR}
    near |= {k: unit.options[0] for k, unit in enumerate(units) if k not in best}
    expected = {
        k: unit.expected
        for k, unit in enumerate(units)
        if unit.expected and (k not in best or best[k].answer.ratio <= NEAR)
    }
    others = (expected, {**near, **taken})
    taken, answer, put_back = settle(taken, others, best, asker, describe_all)
    lost = [
        (region, one.answer.words())
        for k, one in best.items()
        if k not in taken and not wins(one.answer)
        for region in one.regions
    ]
    lost += [
        (region, put_back)
        for k, rs in _regions(units, best)
        if k not in taken
        for region in rs
        if put_back and (k not in best or wins(best[k].answer))
    ]
    chosen = flatten(taken)
    return Decision(chosen, tuple(lost), answer, bool(best) or answer is not None)


def rank(units: Sequence[Unit], kinds: Sequence[str]) -> list[int]:
    """Return the units' numbers by falling estimated time in ONNX Runtime, a kind's together."""
    seconds: dict[str, float] = dict.fromkeys(kinds, 0.0)
    for kind, unit in zip(kinds, units, strict=True):
        seconds[kind] += cost.peer_seconds(unit.nodes)
    return sorted(range(len(units)), key=lambda k: -seconds[kinds[k]])


def ways(unit: Unit) -> list[tuple[Region, ...]]:
    """Return the unit's options, what the estimate takes first."""
    return sorted(unit.options, key=lambda one: one != unit.expected)


def find_best(unit: Unit, first: Answer | None, asker: Asker, describe: Describe) -> Best | None:
    """Return the fastest of the unit's options about which something is known, the `first` answer
    among that; what the estimate takes unless another is clearly better."""
    order = ways(unit)
    found = None if first is None else Best(order[0], first)
    for regions in order[1:]:
        answer = asker.part(describe(unit, regions), unit, regions)
        if answer is not None and (found is None or is_better(answer, found.answer)):
            found = Best(regions, answer)
    return found if found is None else trim(unit, found, asker, describe)


def trim(unit: Unit, found: Best, asker: Asker, describe: Describe) -> Best:
    """Return the best way without those of its quarters that make a large unit slower.

    Each border inside may cost ONNX Runtime a reorder or a fusion, and the kernels a layout: the
    unit is timed as a whole, so that is in the answer.
    """
    for part in quarters(found.regions):
        rest = tuple(region for region in found.regions if region not in part)
        answer = asker.part(describe(unit, rest), unit, rest) if rest else None
        if answer is not None and is_better(answer, found.answer):
            found = Best(rest, answer)
    return found


def is_better(one: Answer, other: Answer) -> bool:
    """Return whether `one` wins and `other` does not, or is clearly faster and loses no win."""
    if wins(one) != wins(other):
        return wins(one)
    share = OTHERWISE_BY_PRIOR if one.prior or other.prior else OTHERWISE
    return one.ratio < share * other.ratio


def quarters(regions: Sequence[Region]) -> list[tuple[Region, ...]]:
    """Return the regions in four parts of about equal estimated time, in order; none of a few."""
    if len(regions) < LARGE:
        return []
    seconds = [cost.kernel_seconds(region.nodes, cost.FUSED) for region in regions]
    parts: list[list[Region]] = [[] for _ in range(4)]
    before = 0.0
    for region, took in zip(regions, seconds, strict=True):
        parts[min(3, int(4 * (before + took / 2) / sum(seconds)))].append(region)
        before += took
    return [tuple(part) for part in parts if part]


def wins(answer: Answer) -> bool:
    """Return whether a unit is worth taking: faster on the mean, and slower nowhere."""
    taken = TAKEN_BY_PRIOR if answer.prior else TAKEN
    return answer.surely <= 1 and answer.worst() <= LOSES and answer.ratio <= taken


def settle(
    taken: Choice,
    others: Sequence[Choice],
    best: Mapping[int, Best],
    asker: Asker,
    describe_all: DescribeAll,
) -> tuple[Choice, Answer | None, str]:
    """Return the choice that the whole model confirms, its answer, and why others were put back.

    The first of the others is the estimate's. A choice whose whole is unknown stands if nothing
    speaks against it: that of the parts does, one that follows a loss does not.
    """

    def ask(choice: Choice, late: bool = False) -> Answer | None:
        regions = flatten(choice)
        return asker.whole(describe_all(regions), regions, late) if regions else None

    # A budget may end before anything else, but what is written was timed; and the estimate's
    # choice, before a model is left as it is for choices of a few measurements that lose together.
    answer = ask(taken, late=True)
    tried = {describe_all(flatten(taken)).digest}
    for k, choice in enumerate(others):
        digest = describe_all(flatten(choice)).digest
        if digest in tried:
            continue
        tried.add(digest)
        other = ask(choice, late=k == 0 and answer is not None and not helps(answer))
        least = min(1.0, answer.ratio) if answer is not None else 1.0
        if other is not None and helps(other) and other.ratio < CLEARLY_BETTER * least:
            taken, answer = choice, other
    if not taken or answer is None or helps(answer):
        return taken, answer, ""
    worst = f"{answer.worst():.3f} of the original's time"
    why = f"the whole model is not faster with it ({worst})"
    threads = answer.slowest()
    order = sorted(taken, key=lambda k: (gain(best.get(k), threads), k))
    count = 1
    while count < len(order):
        fewer = {k: taken[k] for k in sorted(order[count:])}
        other = ask(fewer)
        if other is None:
            break
        if helps(other):
            return fewer, other, why
        count *= 2
    return {}, answer, why


def helps(answer: Answer) -> bool:
    """Return whether a whole model is worth writing."""
    never = answer.prior or answer.perhaps <= WHOLE_PERHAPS
    return never and answer.ratio <= WHOLE and answer.surely <= 1 and answer.worst() <= WHOLE_LOSES


def gain(one: Best | None, threads: int | None) -> float:
    """Return the seconds that taking a unit saves; what was only estimated goes first."""
    return one.answer.gain(threads) if one is not None else float("-inf")


def flatten(choice: Choice) -> tuple[Region, ...]:
    """Return the regions of a choice, in the order of its units."""
    return tuple(region for k in sorted(choice) for region in choice[k])


def _regions(units: Sequence[Unit], best: Mapping[int, Best]):
    for k, unit in enumerate(units):
        yield k, best[k].regions if k in best else unit.expected
