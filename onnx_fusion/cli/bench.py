"""`bench IN [OUT]`: original and optimized, interleaved in one run."""

from __future__ import annotations

import argparse

import onnx

from onnx_fusion.cli import show
from onnx_fusion.cli.optimize import add_planning, seconds
from onnx_fusion.cli.verify import thread_count


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("bench", help="time a model against its optimized copy")
    parser.add_argument("original", metavar="IN", help="the model as it was")
    parser.add_argument(
        "optimized", metavar="OUT", nargs="?", help="the optimized model; else IN is optimized now"
    )
    parser.add_argument(
        "--threads", type=thread_count, default=1, metavar="N", help="threads of both (default 1)"
    )
    parser.add_argument("--inputs", metavar="X.npz", help="as for verify; else random")
    parser.add_argument(
        "--seconds", type=seconds, default=5.0, metavar="S", help="how long to measure (default 5)"
    )
    add_planning(parser, short=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print median, quartiles and the ratio of medians."""
    from onnx_fusion.runtime.bench import bench
    from onnx_fusion.runtime.inputs import read_inputs

    inputs = read_inputs(args.inputs, args.original) if args.inputs else None
    optimized: str | onnx.ModelProto = args.optimized
    if optimized is None:
        from onnx_fusion.api import optimize

        with show.progress() as progress:
            optimized = optimize(args.original, policy=args.policy, progress=progress)
    result = bench(
        args.original, optimized, threads=args.threads, inputs=inputs, seconds=args.seconds
    )
    rows = [
        (name, f"{1e3 * t.median:.4g}", f"{1e3 * t.low:.4g}", f"{1e3 * t.high:.4g}", str(t.count))
        for name, t in (("original", result.original), ("optimized", result.optimized))
    ]
    head = ("model", "median ms", "25 %", "75 %", "samples")
    show.table(head, rows)
    threads = show.plural(result.threads, "thread")
    print(f"ratio {result.ratio:.2f} (original / optimized, {threads})")
    return 0
