"""Time optimized models against ONNX Runtime and other tools, interleaved in one run.

    python scripts/bench.py [MODEL ...] [--threads 1,2]
                            [--peers ort,openvino,mnn,ncnn,onnxslim,inductor]
                            [--policy default|all|tune] [--seconds S] [--restarts N]
                            [--share] [--json FILE] [--plot FILE.png] [--kernels ...]

MODEL is a path, or a name in $ZOO_DIR (default ~/.cache/onnx_fusion_zoo); inputs are those of the
.npz of the same name beside it or in $ZOO_INPUTS, else random. Every engine has a process of its
own and takes samples in turn, who begins rotates; with two threads and more there is a pause before
each, since idle workers spin, and all run on the same CPUs, as many as there are threads. A ratio
is a peer's median over this project's: above 1 this one is faster; the interval (95 %) is a
bootstrap over rounds. A model returned as it was counts as 1, and is not timed. Peers live in the
environment $ONNX_FUSION_PEERS (default /opt/peers), made by

    python -m venv /opt/peers
    /opt/peers/bin/pip install openvino MNN ncnn pnnx onnxslim onnxruntime torch

They compute in float32: MNN at high precision (on x86 others are no faster), ncnn without the half
types of its defaults, which are less exact; inductor is torch.compile, weights frozen, of the
module that pnnx writes, and takes minutes to compile.

`--kernels` and what follows it goes to scripts/bench_kernels.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_peers import PEERS, Missing, convert, python_of  # noqa: E402
from bench_plot import plot  # noqa: E402
from bench_rows import (  # noqa: E402
    OURS,
    REFERENCE,
    Measured,
    Row,
    cells,
    restart_lines,
    summary,
)
from bench_share import share  # noqa: E402
from check_zoo import find, inputs_of  # noqa: E402

from onnx_fusion.api import optimize_file  # noqa: E402
from onnx_fusion.cli import show  # noqa: E402
from onnx_fusion.cli.optimize import seconds, thread_counts  # noqa: E402
from onnx_fusion.errors import OnnxFusionError  # noqa: E402
from onnx_fusion.runtime import place  # noqa: E402
from onnx_fusion.runtime.host import cores, this_host  # noqa: E402
from onnx_fusion.runtime.side import Side  # noqa: E402
from onnx_fusion.runtime.verify import first_run  # noqa: E402
from onnx_fusion.tune.run import Tuning  # noqa: E402

LEAST_ROUNDS, MOST_ROUNDS = 7, 201
PAUSE_SECONDS = 0.1


class Engine:
    """A process that serves one model."""

    def __init__(
        self, name: str, path: str, arrays: Path, threads: int, cpus: Sequence[int] = ()
    ) -> None:
        script = ROOT / "scripts" / "bench_engine.py"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if python_of(name) == sys.executable:
            environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        self.name, self.samples = name, []
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python_of(name), str(script), name, path, str(arrays), str(threads)]
            + [",".join(map(str, cpus))] * bool(cpus),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1,
            env=environment,
        )  # fmt: skip
        self.hello = self.answer()

    def answer(self):
        """Return the process's next answer; raise Missing if it ended."""
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines() or ["nothing"]
            raise Missing(f"ended with {code}: {said[-1][:200]}")
        return json.loads(line)

    def sample(self) -> None:
        """Take a sample."""
        self.process.stdin.write("\n")
        self.samples.append(self.answer())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()


def optimize(path: Path, target: Path, args: argparse.Namespace) -> int:
    """Write the optimized model and return how many regions it has."""
    tuning = None
    if args.policy == "tune":
        inputs = inputs_of(path)
        tuning = Tuning(True, args.threads, args.budget, inputs)
    policy = "default" if args.policy == "tune" else args.policy
    with show.progress() as progress:
        summary = optimize_file(path, target, policy=policy, tuning=tuning, progress=progress)
    for note in summary.notes:
        show.say(f"{path.stem}: {note}")
    return summary.regions


def prepare(path: Path, folder: Path, args: argparse.Namespace) -> tuple[dict, dict, int, Path]:
    """Return the files that engines read, why some have none, our regions, the inputs' file."""
    inputs = inputs_of(path)
    if inputs is None:
        inputs, _ = first_run(Side(path, library=False, threads=None), 0)
    arrays = folder / "inputs.npz"
    np.savez(arrays, **inputs)
    files, missing = {}, {}
    for peer in dict.fromkeys((REFERENCE, *args.peers)):
        try:
            files[peer] = convert(peer, path, inputs, folder)
        except Missing as reason:
            missing[peer] = str(reason)
    regions = optimize(path, folder / "ours.onnx", args)
    if regions:
        files[OURS] = str(folder / "ours.onnx")
    return files, missing, regions, arrays


def measure(
    row: Row, files: dict[str, str], arrays: Path, threads: int, args: argparse.Namespace
) -> None:
    """Start the engines, take samples in turn, and put what they say into the row."""
    engines: list[Engine] = []
    cpus = place.choose(threads)
    try:
        for name, path in files.items():
            try:
                engines.append(Engine(name, path, arrays, threads, cpus))
            except Missing as reason:
                row.missing[name] = str(reason)
        start, rounds = time.perf_counter(), 0
        while rounds < MOST_ROUNDS:
            for offset in range(len(engines)):
                if threads > 1:
                    time.sleep(PAUSE_SECONDS)
                engines[(rounds + offset) % len(engines)].sample()
            rounds += 1
            if rounds >= LEAST_ROUNDS and time.perf_counter() - start > args.seconds:
                break
        kept = {e.name: load(e.hello["results"]) for e in engines}
        for one in engines:
            hello = one.hello
            error = difference(kept.get(REFERENCE, []), kept[one.name])
            row.engines[one.name] = Measured(
                one.samples, hello["create"], hello["peak"], hello["version"], error
            )
    finally:
        for one in engines:
            one.close()


def load(path: str) -> list[np.ndarray]:
    """Return the results that an engine left."""
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in file.files]


def difference(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Return the largest difference over the range of any output; NaN if the outputs are others."""
    worst = 0.0
    if len(wanted) != len(got):
        return math.nan
    for left, right in zip(wanted, got, strict=True):
        if left.dtype.kind != "f":
            continue
        a, b = left.astype(np.float64).ravel(), np.asarray(right).astype(np.float64).ravel()
        if a.size != b.size:
            return math.nan
        both = np.isfinite(a) & np.isfinite(b)
        spread = float(np.ptp(a[both])) if both.any() else 0.0
        if spread:
            worst = max(worst, float(np.abs(a - b)[both].max()) / spread)
    return worst


def machine() -> str:
    """Return a line about the machine and the versions."""
    host = this_host()
    load_now = os.getloadavg()[0]
    return (
        f"{host.cpu}, {show.plural(cores(), 'core')}, {host.isa}, ONNX Runtime {host.ort}, "
        f"onnx_fusion {host.library}, load {load_now:.1f}"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["lenet5_bn"], metavar="MODEL")
    parser.add_argument("--threads", type=thread_counts, default=(1, 2), metavar="N[,N...]")
    parser.add_argument("--peers", type=peer_list, default=("ort",), metavar="PEER[,PEER...]")
    parser.add_argument("--policy", choices=("default", "all", "tune"), default="default")
    parser.add_argument("--budget", type=seconds, metavar="S", help="for tuning each model")
    parser.add_argument("--seconds", type=seconds, default=10.0, metavar="S", help="for each row")
    parser.add_argument("--restarts", type=int, default=1, metavar="N", help="new processes each")
    parser.add_argument("--share", action="store_true", help="tell what kinds of kernels take")
    parser.add_argument("--json", metavar="FILE", help="write all samples")
    parser.add_argument("--plot", metavar="FILE.png", help="needs the extra 'plot'")
    return parser.parse_args(argv)


def peer_list(text: str) -> tuple[str, ...]:
    """Return the peers named; ONNX Runtime is always one."""
    names = tuple(dict.fromkeys((REFERENCE, *text.split(","))))
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is not one of {', '.join(PEERS)}")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table with a row for each model, number of threads and restart, and the means."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--kernels" in argv:
        at = argv.index("--kernels")
        script = ROOT / "scripts" / "bench_kernels.py"
        return subprocess.call([sys.executable, str(script), *argv[:at], *argv[at + 1 :]])
    args = parse(argv)
    rows: list[Row] = []
    try:
        for path in find(args.models):
            with tempfile.TemporaryDirectory(prefix="bench.") as name:
                files, missing, regions, arrays = prepare(path, Path(name), args)
                for turn in range(args.restarts):
                    for threads in args.threads:
                        rows.append(Row(path.stem, threads, regions, missing=dict(missing)))
                        measure(rows[-1], files, arrays, threads, args)
                        if args.share and turn == 0 and OURS in files:
                            with np.load(arrays) as inputs:
                                rows[-1].shares = share(files[OURS], dict(inputs), threads)
                        if turn == 0:
                            for engine, reason in rows[-1].missing.items():
                                show.say(f"{path.stem}: {engine}: {reason}")
    except OnnxFusionError as error:
        show.say(str(error))
        return 1
    except KeyboardInterrupt:
        show.say("interrupted; what was measured follows")
    head = ["model", "threads", "regions", "ours ms", "ort ms", *args.peers]
    head += ["create ms", "ort's", "peak MiB", "ort's", "error"]
    show.table(head, [cells(row, args.peers) for row in rows])
    for row in rows:
        if row.shares:
            parts = (f"{part:.0%} {kind}" for kind, part in row.shares.items() if part >= 0.005)
            print(f"{row.model}, {show.plural(row.threads, 'thread')}: {', '.join(parts)}")
    for line in (*restart_lines(rows, args.peers), *summary(rows, args.peers)):
        print(line)
    print(machine())
    if args.json:
        every = [dataclasses.asdict(row) for row in rows]
        told = {"machine": machine(), "policy": args.policy, "rows": every}
        Path(args.json).write_text(json.dumps(told, indent=1))
    if args.plot and rows:
        try:
            plot(rows, args.peers, machine(), args.plot)
        except OnnxFusionError as error:
            show.say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
