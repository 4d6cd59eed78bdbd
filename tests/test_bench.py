"""How bench measures, with a clock that only moves when a function runs."""

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_fusion.runtime import bench as module
from onnx_fusion.runtime.bench import Result, Timing, race, summarize


class World:
    """A clock, and functions that take a known time on it and leave their name in a log."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Pass time."""
        self.log.append("pause")
        self.now += seconds

    def function(self, name: str, seconds: float):
        """Return a function that takes `seconds`."""

        def run() -> None:
            self.log.append(name)
            self.now += seconds

        return run


def test_the_ratio_is_that_of_the_medians() -> None:
    world = World()
    runs = {"original": world.function("a", 0.03), "optimized": world.function("b", 0.02)}
    times = race(runs, seconds=1, clock=world.clock, sleep=world.sleep)
    assert times["original"].median == pytest.approx(0.03)
    assert times["optimized"].median == pytest.approx(0.02)
    result = Result(times["original"], times["optimized"], 1)
    assert result.ratio == pytest.approx(1.5)


def test_samples_are_interleaved_rotate_and_follow_an_unmeasured_run() -> None:
    world = World()
    runs = {name: world.function(name, 0.02) for name in "abc"}
    race(runs, seconds=0, clock=world.clock, sleep=world.sleep)
    warm_up = 3 * 3
    rounds = "".join(world.log[warm_up:])
    assert rounds[: 3 * 6] == "aabbcc" + "bbccaa" + "ccaabb"
    assert len(rounds) == module.MIN_ROUNDS * 3 * 2


@pytest.mark.parametrize("seconds", [0.00007, 0.003, 0.0099, 0.5])
def test_a_sample_lasts_ten_milliseconds_or_more(seconds: float) -> None:
    world = World()
    run = world.function("a", seconds)
    count = module.calibrate(run, world.clock)
    assert count * seconds >= module.SAMPLE_SECONDS
    assert count == 1 or count * seconds < 2 * module.SAMPLE_SECONDS
    world.log.clear()
    assert module.sample(run, count, world.clock) == pytest.approx(seconds)
    assert len(world.log) == count + 1


def test_with_threads_each_sample_follows_a_pause() -> None:
    world = World()
    runs = {name: world.function(name, 0.02) for name in "ab"}
    race(runs, seconds=0, pause=0.1, clock=world.clock, sleep=world.sleep)
    log = world.log[world.log.index("pause") :]
    assert log[:6] == ["pause", "a", "a", "pause", "b", "b"]


def test_median_and_quartiles() -> None:
    assert summarize([5.0, 1.0, 2.0, 3.0, 4.0]) == Timing(3.0, 2.0, 4.0, 5)


def test_it_stops_after_the_time_given() -> None:
    world = World()
    times = race({"a": world.function("a", 0.05)}, seconds=2, clock=world.clock)
    assert 2 / 0.1 <= times["a"].count <= 2 / 0.1 + 2


def test_an_output_may_be_larger_than_the_model_declares() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x, int64[2] to) => (float[1, 25] z) { z = Reshape(x, to) }""")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    made = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    run = module.runner(made, {"x": np.ones((2, 4), "f4"), "to": np.array([1, 8])})
    run()
    run()
