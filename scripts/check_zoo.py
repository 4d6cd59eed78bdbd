"""Optimize, verify and time models, and print one line for each model and policy.

    python scripts/check_zoo.py [MODEL ...] [--policy default all] [--threads 1 2]
                                [--seconds S] [--no-bench] [--json FILE]

MODEL is a path, or a name in $ZOO_DIR (default ~/.cache/onnx_fusion_zoo): `resnet50` stands for
every exporter's models/resnet50.*.onnx, or real/resnet50.onnx. Inputs are those of the .npz of the
same name beside the model, or in $ZOO_INPUTS; random ones if there is none, or it does not fit.
Every optimized file is verified with the native library and without, at each number of threads.
Exits with 1 if a verification failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from onnx_fusion.api import optimize_file
from onnx_fusion.cli import show
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.runtime.bench import bench
from onnx_fusion.runtime.inputs import npz_beside, read_inputs
from onnx_fusion.runtime.verify import verify

SHOWN = [
    "lenet5_bn",
    "resnet50",
    "mobilenet_v3_large",
    "unet_256",
    "bert_base",
    "gpt2_prefill",
    "swin_t",
    "ppocr4_det",
    "ppocr4_rec",
    "nudenet",
    "magika",
    "silero_vad_op18_ifless",
]


@dataclasses.dataclass(slots=True)
class Row:
    """What became of one model under one policy; ratios by number of threads."""

    model: str
    policy: str
    nodes_before: int = 0
    nodes_after: int = 0
    regions: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0
    max_error: float = 0.0
    gates: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    ratios: dict[int, float] = dataclasses.field(default_factory=dict)
    milliseconds: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)


def find(names: Sequence[str]) -> Iterator[Path]:
    """Yield the files that names or paths stand for."""
    zoo = Path(os.environ.get("ZOO_DIR", Path.home() / ".cache" / "onnx_fusion_zoo"))
    for name in names:
        if name.endswith(".onnx"):
            yield Path(name)
            continue
        found = sorted(zoo.glob(f"models/{name}.*.onnx")) + sorted(zoo.glob(f"real/{name}.onnx"))
        if not found:
            raise OnnxFusionError(f"{name}: no such model in {zoo}")
        yield from found


def inputs_of(path: Path) -> dict[str, np.ndarray] | None:
    """Return the inputs kept for a model, None where random ones must do."""
    kept = npz_beside(path)
    if kept is None and os.environ.get("ZOO_INPUTS"):
        kept = npz_beside(Path(os.environ["ZOO_INPUTS"]) / path.name)
    if kept is None:
        show.say(f"{path.name}: no inputs are kept; random ones")
        return None
    try:
        return read_inputs(kept, path)
    except OnnxFusionError as error:
        show.say(f"{error}; random ones instead")
        return None


def check(path: Path, policy: str, args: argparse.Namespace) -> Row:
    """Return what becomes of one model under one policy."""
    row = Row(path.stem, policy)
    inputs = inputs_of(path)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "optimized.onnx"
        try:
            summary = optimize_file(path, made, policy=policy)
        except OnnxFusionError as error:
            row.failures = (str(error),)
            return row
        row.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row.nodes_before, row.nodes_after = summary.nodes_before, summary.nodes_after
        row.regions, row.seconds = summary.regions, summary.seconds
        for threads in args.threads:
            for library in (True, False):
                verify_one(row, path, made, inputs, threads, library)
        # A model with no region is the input again: its ratio is 1, and timing it tells the noise.
        for threads in args.threads if args.bench and row.regions else ():
            try:
                result = bench(path, made, threads, inputs=inputs, seconds=args.seconds)
            except Exception as error:
                row.failures += (f"bench with {show.plural(threads, 'thread')}: {error}",)
                continue
            row.ratios[threads] = result.ratio
            times = result.original.median, result.optimized.median
            row.milliseconds[threads] = tuple(1e3 * seconds for seconds in times)
    return row


def verify_one(
    row: Row,
    path: Path,
    made: Path,
    inputs: dict[str, np.ndarray] | None,
    threads: int,
    library: bool,
) -> None:
    """Add one verification to the row."""
    where = f"{'with' if library else 'without'} the library, {show.plural(threads, 'thread')}"
    try:
        report = verify(path, made, inputs, threads, library)
    except Exception as error:
        row.failures += (f"{where}: {' '.join(str(error).split())}",)
        return
    row.max_error = max(row.max_error, report.max_error)
    row.gates = tuple(sorted({*row.gates, *(output.gate for output in report.outputs)}))
    if not report.passed:
        row.failures += (f"{where}: {report.failure()}",)
    for note in report.notes:
        show.say(f"{row.model}, {row.policy}, {where}: {note}")


def cells(row: Row, threads: Sequence[int]) -> list[str]:
    """Return the row as the table shows it."""
    untimed = "-" if row.regions or row.failures else "unchanged"
    times = [
        f"{row.ratios[n]:.2f} ({row.milliseconds[n][0]:.3g} ms)" if n in row.ratios else untimed
        for n in threads
    ]
    return [
        row.model,
        row.policy,
        "failed" if row.failures else "passed",
        f"{row.nodes_before}",
        f"{row.nodes_after}",
        f"{row.regions}",
        f"{row.max_error:.1e}",
        ", ".join(row.gates),
        *times,
        f"{row.seconds:.1f}",
        f"{row.peak_mib:.0f}",
    ]


def main() -> int:
    """Check every model in a process of its own, so that peak memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=SHOWN, metavar="MODEL")
    parser.add_argument(
        "--policy", nargs="+", choices=("default", "all"), default=["default", "all"]
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each timing")
    parser.add_argument("--no-bench", dest="bench", action="store_false", help="verify only")
    parser.add_argument("--json", metavar="FILE", help="write the rows")
    args = parser.parse_args()
    try:
        paths = list(find(args.models))
    except OnnxFusionError as error:
        show.say(str(error))
        return 1
    rows = []
    for path in paths:
        for policy in args.policy:
            show.say(f"{path.name}, {policy}")
            rows.append(apart(check, path, policy, args))
            for failure in rows[-1].failures:
                show.say(f"{path.name}, {policy}: {failure}")
    ratios = [f"ratio {show.plural(n, 'thread')}" for n in args.threads]
    head = ["model", "policy", "verified", "nodes", "after", "regions", "max error", "gates"]
    show.table(
        [*head, *ratios, "s", "peak MiB"], [cells(row, args.threads) for row in rows], left=3
    )
    if args.json:
        Path(args.json).write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return 1 if any(row.failures for row in rows) else 0


def apart(function, path: Path, policy: str, args: argparse.Namespace) -> Row:
    """Return the function's row, computed in a new process; a crash is the row's failure."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: theirs.send(function(path, policy, args)))
    process.start()
    theirs.close()
    try:
        row = ours.recv()
    except EOFError:
        process.join()
        row = Row(path.stem, policy, failures=(f"crashed with {process.exitcode}",))
    process.join()
    return row


if __name__ == "__main__":
    sys.exit(main())
