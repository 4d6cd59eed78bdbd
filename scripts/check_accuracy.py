"""Print how far optimized models and plain ONNX Runtime are from float64.

    python scripts/check_accuracy.py [MODEL ...] [--policy default|all] [--threads N]
                                     [--seconds S] [--json FILE]

MODEL and its inputs are found as by scripts/check_zoo.py. The truth is the model with every float32
widened, evaluated in NumPy. An error is the largest difference of any float output over its range,
and the root of the mean square over that of the values. Models behind whose outputs lie decisions
(sorting, suppression) say little here; `verify` cuts at what decides.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from check_zoo import SHOWN, find, inputs_of  # noqa: E402

from onnx_fusion.api import optimize_file  # noqa: E402
from onnx_fusion.cli import show  # noqa: E402
from onnx_fusion.errors import OnnxFusionError  # noqa: E402
from onnx_fusion.runtime.side import Side, Truth  # noqa: E402
from onnx_fusion.runtime.verify import first_run  # noqa: E402


@dataclasses.dataclass(frozen=True, slots=True)
class Error:
    """The worst error of a model's outputs: largest over range, and relative root mean square."""

    largest: float
    square: float


@dataclasses.dataclass(slots=True)
class Row:
    """One model's errors; `note` says why there are none."""

    model: str
    regions: int = 0
    ours: Error | None = None
    ort: Error | None = None
    note: str = ""


def error(truth: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> Error:
    """Return the worst error among outputs, infinite where shapes differ."""
    largest = square = 0.0
    for exact, value in zip(truth, got, strict=True):
        if exact.shape != value.shape:
            return Error(np.inf, np.inf)
        kept = np.isfinite(exact)
        exact, off = exact[kept], value[kept].astype(np.float64) - exact[kept]
        if exact.size and np.ptp(exact):
            largest = max(largest, float(np.abs(off).max() / np.ptp(exact)))
            square = max(square, float(np.linalg.norm(off) / np.linalg.norm(exact)))
    return Error(largest, square)


def check(path: Path, args: argparse.Namespace) -> Row:
    """Return one model's row."""
    row = Row(path.stem)
    plain = Side(path, library=False, threads=args.threads)
    inputs = inputs_of(path)
    if inputs is None:
        inputs, _ = first_run(plain, 0)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        row.regions = optimize_file(path, target, policy=args.policy).regions
        fused = Side(target, library=True, threads=args.threads)
        results = [dict(zip(s.outputs, s.run(inputs), strict=True)) for s in (fused, plain)]
    names = [n for n in plain.outputs if getattr(results[1][n], "dtype", None) == np.float32]
    truth = Truth(plain, inputs, args.seconds)
    exact = truth.values(names)
    if not exact:
        row.note = " ".join(truth.notes) or "no output is float32"
        return row
    row.ours, row.ort = (error([exact[n] for n in names], [r[n] for n in names]) for r in results)
    return row


def cells(row: Row) -> list[str]:
    """Return the row as the table shows it."""
    if row.ours is None or row.ort is None:
        return [row.model, str(row.regions), "-", "-", "-", "-", row.note]
    errors = (row.ours.largest, row.ort.largest, row.ours.square, row.ort.square)
    share = row.ours.square / row.ort.square if row.ort.square else 1.0
    return [row.model, str(row.regions), *(f"{e:.1e}" for e in errors), f"{share:.2f}"]


def main() -> int:
    """Print a row for each model, and the geometric mean of the errors' ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=SHOWN, metavar="MODEL")
    parser.add_argument("--policy", choices=("default", "all"), default="all")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="for each truth")
    parser.add_argument("--json", metavar="FILE", help="write the rows")
    args = parser.parse_args()
    rows = []
    try:
        for path in find(args.models):
            show.say(path.name)
            rows.append(check(path, args))
    except OnnxFusionError as failure:
        show.say(str(failure))
        return 1
    head = ["model", "regions", "max / range", "ort's", "rms", "ort's", "rms / ort's"]
    show.table(head, [cells(row) for row in rows])
    both = [row for row in rows if row.ours and row.ort and row.ort.square and row.ours.square]
    if both:
        mean = statistics.geometric_mean(row.ours.square / row.ort.square for row in both)
        print(f"geometric mean of rms / ort's: {mean:.2f} ({show.plural(len(both), 'model')})")
    if args.json:
        Path(args.json).write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
