"""Two ways to compute the same, timed against each other until it is clear which is faster."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

SAMPLE_SECONDS = 0.01
AROUND_SECONDS, FEWEST = 0.05, 3
"""What a sample may take with all that comes before its runs, unless it has so few of them."""
LEAST_ROUNDS, MOST_ROUNDS = 5, 25
CLEAR = 0.03
"""An interval of the ratio that lies this far from 1, or is so narrow, ends the measurement."""
RESAMPLES = 500
QUARTILE = 25
WARM_SECONDS = 0.003
"""What a side runs after a pause before it is timed: its threads have slept."""
Run = Callable[[], object]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of one run each, the lower quartile of the samples: what else the machine does only
    adds to them. `low` and `high` bound ours / theirs (95 %, bootstrap)."""

    theirs: float
    ours: float
    low: float
    high: float
    samples: int

    @property
    def ratio(self) -> float:
        """ours / theirs: below 1 is faster."""
        return self.ours / self.theirs


def duel(
    theirs: Run,
    ours: Run,
    *,
    before: Run | None = None,
    pause: float = 0.0,
    most_rounds: int = MOST_ROUNDS,
    seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Return how long both take, from samples taken in turn; who is first alternates.

    A sample is the lower quartile of as many runs as last SAMPLE_SECONDS, after a run that is not
    measured, or after a `pause` and as many as last WARM_SECONDS. `before` is called before each
    run and not timed: it takes from the caches what the rest of a model would take. Rounds go on
    until the ratio is clear, or for about `seconds`.
    """
    sides = (theirs, ours)
    counts = [calibrate(side, before, clock) for side in sides]
    samples: tuple[list[float], list[float]] = ([], [])
    start = clock()
    for rounds in itertools.count(1):
        for side in (0, 1) if rounds % 2 else (1, 0):
            if pause:
                sleep(pause)
            warm = WARM_SECONDS if pause else 0.0
            samples[side].append(sample(sides[side], counts[side], before, clock, warm))
        if rounds >= LEAST_ROUNDS:
            low, high = interval(*samples)
            clear = high < 1 - CLEAR or low > 1 + CLEAR or high - low < CLEAR
            if clear or rounds >= most_rounds or clock() - start > seconds:
                quartiles = (float(np.percentile(values, QUARTILE)) for values in samples)
                return Outcome(*quartiles, low, high, rounds)


def calibrate(run: Run, before: Run | None, clock: Callable[[], float]) -> int:
    """Return how many runs make a sample, after one to warm up; fewer if `before` takes long."""
    run()
    took = min(sample(run, 1, before, clock) for _ in range(2))
    count = max(1, min(1000, round(SAMPLE_SECONDS / took)))
    if before is None:
        return count
    start = clock()
    before()
    around = clock() - start
    return min(count, max(FEWEST, round(AROUND_SECONDS / (around + took))))


def sample(
    run: Run, count: int, before: Run | None, clock: Callable[[], float], warm: float = 0.0
) -> float:
    """Return the lower quartile of the seconds of `count` runs, after one that is not measured, and
    as many as last `warm` seconds.

    Each run is timed by itself: one that another process interrupted does not count then.
    """
    begin = clock()
    run()
    while clock() - begin < warm:
        run()
    spent = []
    for _ in range(count):
        if before is not None:
            before()
        start = clock()
        run()
        spent.append(clock() - start)
    return max(float(np.percentile(spent, QUARTILE)), 1e-9)


def interval(
    theirs: Sequence[float], ours: Sequence[float], percentile: float = QUARTILE
) -> tuple[float, float]:
    """Return a 95 % interval of the ratio of percentiles ours / theirs, by bootstrap over rounds.

    The rounds are drawn as pairs, since a machine that is slow for a while is slow for both. The
    same samples give the same interval.
    """
    pairs = np.array([theirs, ours], dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, pairs.shape[1], (RESAMPLES, pairs.shape[1]))
    values = np.percentile(pairs[:, drawn], percentile, axis=2)
    low, high = np.percentile(values[1] / values[0], (2.5, 97.5))
    return float(low), float(high)
