"""Time many sessions at once against ONNX Runtime, and watch memory under changing shapes.

    python scripts/check_load.py MODEL [--sessions 4] [--cores 2] [--rounds N] [--seconds S]
                                 [--policy default|all]
    python scripts/check_load.py MODEL --minutes 10

MODEL and its inputs are found as by scripts/check_zoo.py. The first form runs sessions of one
thread each in threads of their own, all on the same few cores: for a slice of time ONNX Runtime's,
then the optimized ones, and so on; then one session of each alone. It prints the ratios of runs per
second, under load and alone, and the share of the ratio that load keeps (medians over rounds). The
second form runs shapes drawn for the model's symbolic dims in turn, and prints the resident memory
ten times; it exits with 1 if the median of the second five is more than 5 % above the first's.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from check_zoo import find, inputs_of  # noqa: E402

from onnx_fusion.api import optimize_file  # noqa: E402
from onnx_fusion.cli import show  # noqa: E402
from onnx_fusion.cli.optimize import seconds  # noqa: E402
from onnx_fusion.errors import OnnxFusionError, VerifyError  # noqa: E402
from onnx_fusion.runtime.inputs import declared_shape, make_inputs, needed  # noqa: E402
from onnx_fusion.runtime.session import session  # noqa: E402
from onnx_fusion.runtime.side import Side  # noqa: E402
from onnx_fusion.runtime.verify import first_run  # noqa: E402

GROWTH = 0.05
SHAPES, MOST_DRAWN = 24, 100
EXTENTS = 32, 64
Run = Callable[[], object]


def runners(path: Path, count: int, library: bool, inputs: dict[str, np.ndarray]) -> list[Run]:
    """Return what runs each of so many sessions once."""
    made = []
    for _ in range(count):
        one = session(path, library=library, threads=1)
        names = {value.name for value in one.get_inputs()}
        feeds = {name: array for name, array in inputs.items() if name in names}
        made.append(lambda one=one, feeds=feeds: one.run(None, feeds))
        made[-1]()
    return made


def rate(runs: Sequence[Run], seconds: float) -> float:
    """Return runs per second of all together, each in a thread of its own."""
    counts = [0] * len(runs)
    start = time.perf_counter()

    def work(index: int) -> None:
        while time.perf_counter() - start < seconds:
            runs[index]()
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def ratios(ours: Sequence[Run], theirs: Sequence[Run], args: argparse.Namespace) -> list[float]:
    """Return our rate over theirs, for each round."""
    found = []
    for turn in range(args.rounds):
        order = (theirs, ours) if turn % 2 else (ours, theirs)
        rates = [rate(side, args.seconds) for side in order]
        found.append(rates[1] / rates[0] if turn % 2 else rates[0] / rates[1])
    return found


def check_scaling(path: Path, target: Path, args: argparse.Namespace) -> list[str]:
    """Return the row of one model."""
    inputs = inputs_of(path)
    if inputs is None:
        inputs, _ = first_run(Side(path, library=False, threads=1), 0)
    ours = runners(target, args.sessions, True, inputs)
    theirs = runners(path, args.sessions, False, inputs)
    loaded = ratios(ours, theirs, args)
    alone = ratios(ours[:1], theirs[:1], args)
    kept = statistics.median(loaded) / statistics.median(alone)
    spread = f"{min(loaded):.2f}-{max(loaded):.2f}", f"{min(alone):.2f}-{max(alone):.2f}"
    return [
        path.stem,
        f"{statistics.median(loaded):.3f} ({spread[0]})",
        f"{statistics.median(alone):.3f} ({spread[1]})",
        f"{kept:.3f}",
    ]


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def accepted(
    side: Side, symbols: Sequence[str], rng: np.random.Generator
) -> list[dict[str, np.ndarray]]:
    """Return inputs of different shapes that the original runs on."""
    found = []
    for _ in range(MOST_DRAWN):
        dims = {name: int(rng.integers(*EXTENTS)) for name in symbols}
        feeds = make_inputs(side.proto, dims=dims)
        with contextlib.suppress(VerifyError):
            side.run(feeds)
            found.append(feeds)
        if len(found) == SHAPES:
            return found
    if len(found) < 2:
        raise OnnxFusionError(f"{side.label}: takes {len(found)} of {MOST_DRAWN} shapes drawn")
    return found


def check_growth(path: Path, target: Path, minutes: float) -> bool:
    """Run with changing shapes; print what memory does, and return whether it stays."""
    side = Side(path, library=False, threads=1)
    symbols = sorted(
        {d for value in needed(side.proto) for d in declared_shape(value) if isinstance(d, str)}
    )
    if not symbols:
        raise OnnxFusionError(f"{path}: no input has a symbolic dim, so shapes cannot change")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The arena keeps what the largest shape needed; growth of ours would hide behind it.
    options.enable_cpu_mem_arena = False
    run = session(target, threads=1, options=options).run
    rng = np.random.default_rng(0)
    feeds = accepted(side, symbols, rng)
    start, runs, seen = time.monotonic(), 0, []
    for tenth in range(1, 11):
        while time.monotonic() - start < 6 * minutes * tenth:
            run(None, feeds[int(rng.integers(len(feeds)))])
            runs += 1
        gc.collect()
        seen.append(resident())
        print(f"{6 * minutes * tenth:6.0f} s {runs:8} runs {seen[-1] / 2**20:8.1f} MiB", flush=True)
    grown = statistics.median(seen[5:]) / statistics.median(seen[:5]) - 1
    print(f"{path.stem}: {len(feeds)} shapes, resident memory {grown:+.1%} in the second half")
    return grown <= GROWTH


def main() -> int:
    """Return 0 unless memory grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--sessions", type=int, default=4, metavar="N")
    parser.add_argument("--cores", type=int, default=2, metavar="N")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--seconds", type=seconds, default=1.5, metavar="S", help="for each slice")
    parser.add_argument("--minutes", type=float, metavar="M", help="watch memory for so long")
    parser.add_argument("--policy", choices=("default", "all"), default="all")
    args = parser.parse_args()
    rows, fine = [], True
    try:
        if args.minutes is None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
        for path in find(args.models):
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "optimized.onnx"
                optimize_file(path, target, policy=args.policy)
                if args.minutes is None:
                    rows.append(check_scaling(path, target, args))
                else:
                    fine = check_growth(path, target, args.minutes) and fine
    except OnnxFusionError as failure:
        show.say(str(failure))
        return 1
    if rows:
        load = f"{args.sessions} sessions on {show.plural(args.cores, 'core')}"
        show.table(["model", load, "alone", "kept"], rows)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
