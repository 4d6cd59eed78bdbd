"""Two ways to compute the same, timed against each other until it is clear which is faster."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

SAMPLE_SECONDS = 0.01
LONG_SECONDS = 0.1
"""A run that takes so long needs none before it: what it finds in the caches is a small part."""
AROUND_SECONDS, FEWEST = 0.05, 3
"""What a sample may take with all that comes before its runs, unless it has so few of them."""
LEAST_ROUNDS, MOST_ROUNDS = 5, 25
CLEAR = 0.03
"""An interval of the ratio that lies this far from 1, or is so narrow, ends the measurement."""
RESAMPLES = 500
QUARTILE = 25
FINE_SECONDS = 1e-6
"""The resolution that a thread's own clock must have to be used."""
WARM_SECONDS = 0.003
"""What a side runs after a pause before it is timed: its threads have slept."""
Run = Callable[[], object]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of one run each: the original's are the lower quartile of the samples, since what
    else the machine does only adds to them, ours that times the median of the rounds' ratios, since
    it adds to both sides of a round. `low` and `high` bound ours / theirs (95 %, bootstrap)."""

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
    patience: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    timer: Callable[[], float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Return how long both take by `timer`, from samples taken in turn; who is first alternates.

    A sample is the lower quartile of as many runs as last SAMPLE_SECONDS, after a run that is not
    measured, or after a `pause` and as many as last WARM_SECONDS. One run of LONG_SECONDS is a
    sample by itself. `before` is called before each run and not timed: it takes from the caches
    what the rest of a model would take. Rounds go on until the ratio is clear, or for about
    `seconds` by `clock`, which is the timer where no other is given, `patience` times as long where
    it was `disturbed`.
    """
    timer = timer or clock
    sides = (theirs, ours)
    counts = [calibrate(side, before, timer) for side in sides]
    samples: tuple[list[float], list[float]] = ([], [])
    start = clock()
    for rounds in itertools.count(1):
        for side in (0, 1) if rounds % 2 else (1, 0):
            if pause:
                sleep(pause)
            warm = WARM_SECONDS if pause else 0.0
            samples[side].append(sample(sides[side], counts[side], before, timer, warm))
        if rounds >= LEAST_ROUNDS:
            ratio, low, high = compare(*samples)
            clear = high < 1 - CLEAR or low > 1 + CLEAR or high - low < CLEAR
            over = clock() - start > seconds * (patience if disturbed(ratio, low, high) else 1)
            if clear or rounds >= most_rounds or over:
                seconds = float(np.percentile(samples[0], QUARTILE))
                return Outcome(seconds, ratio * seconds, low, high, rounds)


def disturbed(ratio: float, low: float, high: float) -> bool:
    """Return whether the ratio is on one side of 1, by CLEAR, and its interval on both: that is
    what other work makes of a ratio that is clear."""
    return abs(ratio - 1) > CLEAR and low < 1 < high


def timer_for(threads: int) -> Callable[[], float]:
    """Return the clock to time runs with so many threads by.

    A single thread's own time is what its runs take on a machine that has nothing else to do: other
    processes take the CPU from it, and that clock stands still meanwhile.
    """
    fine = time.get_clock_info("thread_time").resolution <= FINE_SECONDS
    return time.thread_time if threads == 1 and fine else time.perf_counter


def calibrate(run: Run, before: Run | None, clock: Callable[[], float]) -> int:
    """Return how many runs make a sample, after one to warm up; fewer if `before` takes long, 0 for
    a single one that needs none before it."""
    start = clock()
    run()
    if clock() - start >= 2 * LONG_SECONDS:  # the first one does more
        return 0
    took = min(sample(run, 1, before, clock) for _ in range(2))
    if took >= LONG_SECONDS:
        return 0
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
    as many as last `warm` seconds; with a count of 0 those of one run.

    Each run is timed by itself: one that another process interrupted does not count then.
    """
    begin = clock()
    if count > 0:
        run()
    while clock() - begin < warm:
        run()
    spent = []
    for _ in range(max(1, count)):
        if before is not None:
            before()
        start = clock()
        run()
        spent.append(clock() - start)
    return max(float(np.percentile(spent, QUARTILE)), 1e-9)


def compare(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of the rounds' ratios ours / theirs, and its 95 % interval by bootstrap.

    A machine that is slow for a while is slow for both sides of a round. The same samples give the
    same interval.
    """
    ratios = np.asarray(ours, np.float64) / np.asarray(theirs, np.float64)
    low, high = np.percentile(np.median(ratios[draw(len(ratios))], axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


def interval(
    theirs: Sequence[float], ours: Sequence[float], percentile: float
) -> tuple[float, float]:
    """Return a 95 % interval of the ratio of percentiles ours / theirs, by bootstrap over rounds,
    which are drawn as pairs."""
    low, high = np.percentile(resample(theirs, ours, percentile), (2.5, 97.5))
    return float(low), float(high)


def interval_over(
    restarts: Sequence[tuple[Sequence[float], Sequence[float]]], percentile: float
) -> tuple[float, float]:
    """Return a 95 % interval of the geometric mean of that ratio over restarts, each the samples of
    both sides, by bootstrap: restarts are drawn, and rounds of each."""
    logs = np.log([resample(theirs, ours, percentile) for theirs, ours in restarts])
    drawn = np.random.default_rng(0).integers(0, len(logs), logs.T.shape)
    means = np.exp(logs[drawn, np.arange(RESAMPLES)[:, None]].mean(axis=1))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def resample(theirs: Sequence[float], ours: Sequence[float], percentile: float) -> np.ndarray:
    """Return the ratio of percentiles ours / theirs of each resample of the rounds."""
    pairs = np.array([theirs, ours], dtype=np.float64)
    values = np.percentile(pairs[:, draw(pairs.shape[1])], percentile, axis=2)
    return values[1] / values[0]


def draw(rounds: int) -> np.ndarray:
    """Return the rounds that each resample takes, the same for as many rounds."""
    return np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
