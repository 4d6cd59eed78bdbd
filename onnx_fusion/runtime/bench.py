"""How long models take: interleaved in one run, since machines drift and caches remember.

Each sample follows an unmeasured run and lasts 10 ms or more; the order rotates every round. With
two threads or more, ONNX Runtime's workers spin for a while after a run and would take a core from
whatever is timed next, so there is a pause between samples.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime

from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.runtime import place
from onnx_fusion.runtime.session import session
from onnx_fusion.runtime.side import SILENT, Side
from onnx_fusion.runtime.verify import first_run

SAMPLE_SECONDS = 0.01
PAUSE_SECONDS = 0.1
MIN_ROUNDS, MAX_ROUNDS = 7, 101


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for one run: median and quartiles over `count` samples."""

    median: float
    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """Two timings of one run; `ratio` is original / optimized, so above 1 is faster."""

    original: Timing
    optimized: Timing
    threads: int

    @property
    def ratio(self) -> float:
        """The ratio of medians."""
        return self.original.median / self.optimized.median


def bench(
    original: str | os.PathLike | onnx.ModelProto,
    optimized: str | os.PathLike | onnx.ModelProto,
    threads: int = 1,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    library: bool = True,
    seconds: float = 5.0,
) -> Result:
    """Return both models' timings on the same inputs, random ones unless given.

    The original runs in plain ONNX Runtime with all optimizations. Measuring goes on for about
    `seconds`, and for 7 rounds at least. Several threads have a CPU each, the same for both models.
    """
    cpus = place.choose(threads)
    if inputs is None:
        inputs, _ = first_run(Side(original, library=False, threads=threads), 0)
    runs = {}
    for name, model, registered in (
        ("original", original, False),
        ("optimized", optimized, library),
    ):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = SILENT
        place.assign(options, cpus)
        made = session(model, library=registered, threads=threads, options=options)
        wanted = [value.name for value in made.get_inputs()]
        unknown = sorted(set(wanted) - set(inputs))
        if unknown:
            raise OnnxFusionError(
                f"the {name} model has an input '{unknown[0]}'; there are arrays for "
                f"{', '.join(inputs) or 'none'}: are these copies of one model?"
            )
        runs[name] = runner(made, {one: inputs[one] for one in wanted})
    with place.held(cpus):
        times = race(runs, seconds=seconds, pause=PAUSE_SECONDS if threads > 1 else 0.0)
    return Result(times["original"], times["optimized"], threads)


def runner(
    made: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]
) -> Callable[[], object]:
    """Return a function that runs the session once.

    Inputs and outputs are bound where they are tensors of numbers, so that what is timed is the
    model and not the conversion of NumPy arrays (about 8 us a run, a quarter of LeNet-5's).
    """
    kinds = [value.type for value in (*made.get_inputs(), *made.get_outputs())]
    if not all(kind.startswith("tensor(") and "string" not in kind for kind in kinds):
        return lambda: made.run(None, feeds)
    binding = made.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for value in made.get_outputs():
        binding.bind_output(value.name)
    try:
        for _ in range(2):
            made.run_with_iobinding(binding)
    except RuntimeError:
        # It checks ranks, and the second time extents, that the model declares; `run` forgives.
        return lambda: made.run(None, feeds)
    return lambda: made.run_with_iobinding(binding)


def race(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 5.0,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Return a timing for each function, from samples taken in turn, the first one rotating."""
    names = list(runs)
    repeats = {name: calibrate(runs[name], clock) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = clock()
    for turn in range(MAX_ROUNDS):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            if pause:
                sleep(pause)
            samples[name].append(sample(runs[name], repeats[name], clock))
        if turn + 1 >= MIN_ROUNDS and clock() - start > seconds:
            break
    return {name: summarize(values) for name, values in samples.items()}


def calibrate(run: Callable[[], object], clock: Callable[[], float]) -> int:
    """Return how many runs make a sample of 10 ms or more, after one run to warm up."""
    run()
    count = 1
    while True:
        took = sample(run, count, clock) * count
        if took >= SAMPLE_SECONDS:
            return count
        count = max(count + 1, min(10 * count, int(1.2 * count * SAMPLE_SECONDS / took) + 1))


def sample(run: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    """Return the mean seconds of `count` runs, after one that is not measured."""
    run()
    start = clock()
    for _ in range(count):
        run()
    return max(clock() - start, 1e-9) / count


def summarize(values: list[float]) -> Timing:
    """Return median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, low, high, len(values))
