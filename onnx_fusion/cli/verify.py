"""`verify ORIGINAL OPTIMIZED`: the same inputs through both models, judged output by output."""

from __future__ import annotations

import argparse

from onnx_fusion.cli import show
from onnx_fusion.errors import VerifyError

MOST_THREADS = 1024
"""ONNX Runtime takes any number, and then the machine's memory for their stacks."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("verify", help="compare the results of two models")
    parser.add_argument("original", metavar="ORIGINAL", help="the model as it was")
    parser.add_argument("optimized", metavar="OPTIMIZED", help="the model that `optimize` wrote")
    parser.add_argument(
        "--inputs", metavar="X.npz", help="arrays named as the inputs, or in_<input>; else random"
    )
    parser.add_argument(
        "--threads", type=thread_count, metavar="N", help="threads of both sessions"
    )
    parser.add_argument(
        "--no-library",
        action="store_true",
        help="run the optimized model's portable functions in plain ONNX Runtime",
    )
    parser.set_defaults(run=run)


def thread_count(text: str) -> int:
    """Return the text as a number of threads."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 1 to {MOST_THREADS}, not '{text}'"
        )
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print a line for each output; raise VerifyError if one fails."""
    from onnx_fusion.runtime.inputs import read_inputs
    from onnx_fusion.runtime.verify import verify

    inputs = read_inputs(args.inputs, args.original) if args.inputs else None
    report = verify(
        args.original, args.optimized, inputs, threads=args.threads, library=not args.no_library
    )
    rows = [
        (
            output.name,
            "passed" if output.passed else "failed",
            output.gate,
            f"{output.max_error:.3g}",
            f"{output.range_error:.3g}",
        )
        for output in report.outputs
    ]
    show.table(("output", "result", "gate", "max error", "error/range"), rows, left=3)
    for note in report.notes:
        show.say(note)
    if not report.passed:
        raise VerifyError(f"{args.optimized}: {report.failure()}")
    return 0
