"""How two runs are timed against each other, with a clock that only moves when a function runs."""

import time
import types

import numpy as np
import pytest

from onnx_fusion.runtime import duel as module
from onnx_fusion.runtime.duel import Outcome, compare, duel, interval


class World:
    """A clock, and functions that take times on it, one after another, and leave their names."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.log.append("pause")
        self.now += seconds

    def run(self, name, *seconds):
        def function():
            took = seconds[self.log.count(name) % len(seconds)]
            self.log.append(name)
            self.now += took

        return function


def race(world, theirs, ours, **options):
    return duel(theirs, ours, clock=world.clock, sleep=world.sleep, **options)


def test_a_clear_ratio_ends_soon():
    world = World()
    found = race(world, world.run("a", 0.03), world.run("b", 0.02))
    near = pytest.approx
    assert found == Outcome(near(0.03), near(0.02), near(2 / 3), near(2 / 3), 5)
    assert found.ratio == pytest.approx(2 / 3)


def test_an_unclear_one_goes_on_to_the_end():
    world = World()
    found = race(world, world.run("a", 0.02, 0.03, 0.025), world.run("b", 0.024, 0.02, 0.03, 0.026))
    assert found.samples == module.MOST_ROUNDS and found.low <= 1 < found.high


def test_it_stops_after_the_time_given():
    world = World()
    found = race(world, world.run("a", 0.1, 0.3, 0.2), world.run("b", 0.2, 0.1, 0.3, 0.25),
                 seconds=0.5)  # fmt: skip
    assert found.samples == module.LEAST_ROUNDS


def test_a_disturbed_one_has_more_time():
    """Slower in two rounds of the first five; the rest tells that it is faster."""

    def found(patience, *ours):
        world = World()
        return race(world, world.run("a", 0.3), world.run("b", *ours),
                    seconds=2.5, patience=patience)  # fmt: skip

    disturbed = (0.27, 0.35, 0.27, 0.35, *[0.27] * 30)
    assert found(1, *disturbed).high > 1 and found(1, *disturbed).samples == 5
    assert found(4, *disturbed).high < 1 and 5 < found(4, *disturbed).samples < 17
    assert found(4, 0.3, 0.29, 0.31).samples == 5  # as fast: more time would not tell


def test_who_is_first_alternates_after_pauses():
    world = World()
    race(world, world.run("a", 0.03), world.run("b", 0.02), pause=0.1)
    first = world.log.index("pause")
    assert world.log[first : first + 12] == ["pause", *"aa", "pause", *"bb", "pause", *"bb",
                                             "pause", *"aa"]  # fmt: skip


def test_what_comes_before_each_run_is_not_timed():
    world = World()
    found = race(world, world.run("a", 0.004), world.run("b", 0.002), before=world.run("x", 0.05))
    assert found.theirs == pytest.approx(0.004) and found.ours == pytest.approx(0.002)
    assert world.log.count("x") > world.log.count("a") / 2


def test_a_sample_is_short_even_if_much_comes_before_its_runs():
    world = World()
    assert module.calibrate(world.run("a", 1e-4), None, world.clock) == 100
    assert module.calibrate(world.run("a", 1e-4), world.run("x", 0.01), world.clock) == 5
    assert module.calibrate(world.run("a", 1e-4), world.run("x", 0.1), world.clock) == module.FEWEST
    assert module.calibrate(world.run("a", 0.09), world.run("x", 0.1), world.clock) == 1


@pytest.mark.parametrize("seconds", [0.15, 0.3])
def test_long_runs_are_samples_by_themselves(seconds):
    world = World()
    found = race(world, world.run("a", seconds), world.run("b", 0.8 * seconds))
    assert found.theirs == pytest.approx(seconds) and found.samples == module.LEAST_ROUNDS
    assert world.log.count("b") <= module.LEAST_ROUNDS + 5
    assert world.log.count("a") == module.LEAST_ROUNDS + (5 if seconds < 0.2 else 1)


def test_what_a_timer_does_not_count_does_not_matter():
    """Another process has the CPU for longer than a run, now of the one side, now of the other."""
    world, own = World(), [0.0]

    def run(seconds, away):
        waits = iter(away)

        def function():
            world.now += seconds + next(waits)
            own[0] += seconds

        return function

    rng = np.random.default_rng(0)
    found = race(world, run(0.02, rng.exponential(0.1, 500)), run(0.019, rng.exponential(0.1, 500)),
                 timer=lambda: own[0])  # fmt: skip
    assert found.ratio == pytest.approx(0.95) and found.high < 0.951


def test_one_threads_own_time_leaves_waiting_out(monkeypatch):
    timer = module.timer_for(1)
    start, wall = timer(), time.perf_counter()
    time.sleep(0.05)
    assert timer() - start < 0.5 * (time.perf_counter() - wall)
    assert module.timer_for(2) is time.perf_counter
    coarse = types.SimpleNamespace(resolution=1 / 64)
    monkeypatch.setattr(time, "get_clock_info", lambda name: coarse)
    assert module.timer_for(1) is time.perf_counter


def test_a_run_that_was_interrupted_does_not_count():
    world = World()
    found = race(world, world.run("a", 0.001, 0.001, 0.001, 0.5), world.run("b", 0.0008))
    assert found.theirs == pytest.approx(0.001)


def test_the_interval_is_of_pairs_and_repeats():
    drift = np.linspace(1, 3, 20)
    found = compare(drift, 0.8 * drift)
    assert found == pytest.approx((0.8, 0.8, 0.8)) and compare(drift, 0.8 * drift) == found
    assert interval(drift, 0.8 * drift, 25) == pytest.approx((0.8, 0.8))
    rng = np.random.default_rng(1)
    low, high = interval(rng.normal(1, 0.1, 30), rng.normal(1, 0.1, 30), 50)
    assert low < 1 < high


def test_intervals_hold_what_is_true():
    """Rounds of a machine whose speed drifts, with noise: 95 % of the intervals shall hold it."""
    rng = np.random.default_rng(2)
    held, apart = 0, []
    for _ in range(300):
        drift = 1 + rng.exponential(0.3, 15)
        theirs, ours = (drift * x * np.exp(rng.normal(0, 0.05, 15)) for x in (1.0, 0.9))
        ratio, low, high = compare(theirs, ours)
        held += low <= 0.9 <= high
        apart.append(abs(ratio - 0.9))
    assert held >= 270 and np.median(apart) < 0.02
