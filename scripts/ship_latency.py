"""Rewrite the latencies that ship with the package, from models tuned here and exports of others.

    python scripts/ship_latency.py [MODEL ...] [--threads 1,2] [--budget S] [--add EXPORT ...]

MODEL is as for scripts/bench.py. Each is tuned (what the user's database knows is not measured
again); then onnx_fusion/runtime/latency.jsonl has the stretches, not the whole models, that were
measured on this machine with this library, and those in the files that `latency export` wrote on
others. Run it when the kernels are final: another program is another entry. For AVX2 on a machine
with AVX-512, hide that from ONNX Runtime, too (scripts/hide_avx512.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from check_zoo import find, inputs_of  # noqa: E402

from onnx_fusion.api import optimize_file  # noqa: E402
from onnx_fusion.cli import show  # noqa: E402
from onnx_fusion.cli.optimize import seconds, thread_counts  # noqa: E402
from onnx_fusion.errors import OnnxFusionError  # noqa: E402
from onnx_fusion.runtime.duel import disturbed  # noqa: E402
from onnx_fusion.runtime.host import this_host  # noqa: E402
from onnx_fusion.runtime.latency import (  # noqa: E402
    KEY,
    SHIPPED,
    Database,
    Entry,
    read_text,
    write_text,
)
from onnx_fusion.tune.run import Tuning  # noqa: E402
from onnx_fusion.tune.subject import WHOLE  # noqa: E402

DIGITS = 4


def choose(entries: Iterable[Entry]) -> list[Entry]:
    """Return what ships of these: no whole models, nothing that failed instead of being timed or
    that other work disturbed, the last of each key, in the keys' order."""
    timed = [e for e in entries if e.samples and not e.what.startswith(WHOLE)]
    kept = {key(e): rounded(e) for e in timed if not disturbed(e.ratio, e.low, e.high)}
    return [kept[one] for one in sorted(kept)]


def key(entry: Entry) -> tuple:
    """Return what tells an entry from others."""
    return tuple(getattr(entry, name) for name in KEY)


def rounded(entry: Entry) -> Entry:
    """Return the entry with as many digits as mean something."""
    numbers = ("theirs", "ours", "low", "high")
    return dataclasses.replace(
        entry, **{name: float(f"{getattr(entry, name):.{DIGITS}g}") for name in numbers}
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, collect, write, and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--threads", type=thread_counts, default=(1, 2), metavar="N[,N...]")
    parser.add_argument("--budget", type=seconds, metavar="S", help="for each model")
    parser.add_argument("--add", nargs="+", default=[], metavar="EXPORT")
    parser.add_argument("--output", default=SHIPPED, type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    try:
        for path in find(args.models):
            tuning = Tuning(True, args.threads, args.budget, inputs_of(path))
            with tempfile.TemporaryDirectory() as folder:
                summary = optimize_file(path, Path(folder) / "out.onnx", tuning=tuning)
            show.say(f"{path.stem}: {summary.notes[0]}")
        added = [e for name in args.add for e in read_text(Path(name).read_text(), name)]
        own = [e for e in Database().entries() if e.host == this_host()]
    except (OnnxFusionError, OSError) as error:
        show.say(str(error))
        return 1
    chosen = choose([*added, *own])
    args.output.write_text(write_text(chosen))
    print(f"{args.output}: {show.plural(len(chosen), 'measurement')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
