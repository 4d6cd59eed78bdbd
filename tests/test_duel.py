"""How two runs are timed against each other, with a clock that only moves when a function runs."""

import numpy as np
import pytest

from onnx_fusion.runtime import duel as module
from onnx_fusion.runtime.duel import Outcome, duel, interval


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
    assert found.samples == module.MOST_ROUNDS and found.low < 1 < found.high


def test_it_stops_after_the_time_given():
    world = World()
    found = race(world, world.run("a", 0.1, 0.3, 0.2), world.run("b", 0.2, 0.1, 0.3, 0.25),
                 seconds=0.5)  # fmt: skip
    assert found.samples == module.LEAST_ROUNDS


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
    assert module.calibrate(world.run("a", 0.1), world.run("x", 0.1), world.clock) == 1


def test_a_run_that_was_interrupted_does_not_count():
    world = World()
    found = race(world, world.run("a", 0.001, 0.001, 0.001, 0.5), world.run("b", 0.0008))
    assert found.theirs == pytest.approx(0.001)


def test_the_interval_is_of_pairs_and_repeats():
    drift = np.linspace(1, 3, 20)
    low, high = interval(drift, 0.8 * drift)
    assert (low, high) == pytest.approx((0.8, 0.8)) and interval(drift, 0.8 * drift) == (low, high)
    rng = np.random.default_rng(1)
    low, high = interval(rng.normal(1, 0.1, 30), rng.normal(1, 0.1, 30), 50)
    assert low < 1 < high
