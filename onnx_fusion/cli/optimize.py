"""`optimize IN OUT`: write the fused model, and say in a few lines what was done."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from onnx_fusion.cli import show
from onnx_fusion.cli.verify import thread_count
from onnx_fusion.errors import OnnxFusionError, VerifyError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("optimize", help="write a fused copy of a model")
    parser.add_argument("source", metavar="IN", help="the model to read; it is never changed")
    parser.add_argument("target", metavar="OUT", help="the fused model to write")
    add_planning(parser)
    parser.add_argument(
        "--no-fallback",
        action="store_true",
        help="leave the portable functions out: the model then runs with the library only",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the two models' results, with the library and without, before OUT is written",
    )
    parser.add_argument(
        "--single-file",
        action="store_true",
        help="write no OUT.data; sessions then keep large fused weights in memory twice",
    )
    parser.add_argument(
        "--embed-ptx",
        action="store_true",
        help="write CUDA kernels into the model, so that no compiler is needed where it is loaded "
        "by those who trust it",
    )
    add_tuning(parser)
    parser.set_defaults(run=run)


def add_tuning(parser: argparse.ArgumentParser) -> None:
    """Add the options that let measured latency decide."""
    group = parser.add_argument_group("measured latency decides (remembered: see 'latency')")
    group.add_argument(
        "--tune",
        action="store_true",
        help="time stretches fused and in ONNX Runtime, keep what wins, check the whole model",
    )
    group.add_argument(
        "--budget",
        type=seconds,
        metavar="SECONDS",
        help="stop measuring then; only what is to be written is still timed",
    )
    group.add_argument(
        "--threads",
        type=thread_counts,
        metavar="N[,N...]",
        help="threads of the sessions to come (default: 1 and as many as there are cores)",
    )
    group.add_argument("--inputs", metavar="X.npz", help="inputs to measure with; else random")
    group.add_argument(
        "--dim",
        action="append",
        type=sized,
        default=[],
        metavar="NAME=SIZE",
        help="size of a symbolic dim to measure with; may be given several times",
    )


def seconds(text: str) -> float:
    """Return the text as a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not '{text}'")
    return value


def thread_counts(text: str) -> tuple[int, ...]:
    """Return numbers of threads, separated by commas, each once and in order."""
    return tuple(sorted({thread_count(part) for part in text.split(",")}))


def sized(text: str) -> tuple[str, int]:
    """Return name and size from `name=size`."""
    name, _, size = text.partition("=")
    if not name or not size.isdigit() or int(size) < 1:
        raise argparse.ArgumentTypeError(f"must be NAME=SIZE with a size of at least 1, not {text}")
    return name, int(size)


def tuning(args: argparse.Namespace):
    """Return what the tuning options ask for, None if nothing; raise if they contradict."""
    given = [name for name in ("budget", "inputs", "dim") if getattr(args, name)]
    if not args.tune:
        if given:
            raise OnnxFusionError(f"--{given[0]} says how to measure; it needs --tune")
        if args.threads is None:
            return None
    if args.device != "cpu":
        raise OnnxFusionError(
            f"--tune measures on the CPU; it cannot be used with --target {args.device}"
        )
    if args.policy != "default":
        raise OnnxFusionError(f"--policy {args.policy} leaves measured latency nothing to decide")
    if args.inputs and args.dim:
        raise OnnxFusionError("--inputs has its sizes already; leave --dim out")
    from onnx_fusion.runtime.inputs import read_inputs
    from onnx_fusion.tune.run import Tuning

    return Tuning(
        measure=args.tune,
        threads=args.threads,
        budget=args.budget,
        inputs=read_inputs(args.inputs, args.source) if args.inputs else None,
        dims=dict(args.dim),
    )


def add_planning(parser: argparse.ArgumentParser, *, short: bool = False) -> None:
    """Add the options that decide what is fused; `short` leaves out all but the policy."""
    parser.add_argument(
        "--policy",
        choices=("default", "all"),
        default="default",
        help="default: what is expected to make the model faster; all: whatever is legal",
    )
    if short:
        return
    parser.add_argument(
        "--target",
        dest="device",
        choices=("cpu", "cuda", "both"),
        default="cpu",
        help="where it is to run: regions are those with kernels there (default: cpu)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="no change of arithmetic: no Winograd, Strassen, folded BatchNormalization, or "
        "reassociation",
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        action="extend",
        default=[],
        metavar="NODE_OR_OP",
        help="names of nodes, or operator types, to leave as they are",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="NODE_OR_OP",
        help="fuse nothing but these, and what is in bodies and functions of these names",
    )
    parser.add_argument(
        "--max-regions", type=number, metavar="N", help="keep the first N regions of the plan"
    )
    parser.add_argument(
        "--disable-rule",
        action="append",
        default=[],
        metavar="NAME",
        help="do without a rewriting rule or a template; may be given several times",
    )
    parser.add_argument(
        "--list-rules", action=ListRules, nargs=0, help="print the rules' names and exit"
    )


class ListRules(argparse.Action):
    """Prints a line for each rule that can be disabled, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from onnx_fusion.api import list_rules

        show.table(
            ("rule", "results", "what it does"),
            [(one.name, one.exactness, one.about) for one in list_rules()],
            left=3,
        )
        parser.exit()


def number(text: str) -> int:
    """Return the text as a number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not '{text}'")
    return int(text)


def planning(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that `add_planning` added, as the API's functions take them."""
    return {
        "policy": args.policy,
        "device": args.device,
        "strict": args.strict,
        "skip": tuple(args.skip),
        "only": tuple(args.only),
        "max_regions": args.max_regions,
        "disabled": tuple(args.disable_rule),
    }


def run(args: argparse.Namespace) -> int:
    """Optimize, verify if asked to, and print the summary to stdout."""
    show.refuse_same(args.source, args.target)
    summary = optimize_verified(args) if args.verify else optimize_to(args, args.target)
    for note in summary.notes:
        show.say(note)
    print(
        f"{args.target}: {show.plural(summary.nodes_before, 'node')} before, "
        f"{summary.nodes_after} after, {show.plural(summary.regions, 'region')}"
    )
    for path in summary.files[1:]:
        size = show.amount(os.path.getsize(path))
        print(f"{path}: {size} of weights; keep it beside the model ('--single-file' writes none)")
    print(
        f"intermediate results: {show.amount(summary.irs_bytes_before)} before, "
        f"{show.amount(summary.irs_bytes_after)} after"
    )
    if args.verify:
        print("verified: with the library" + ("" if args.no_fallback else " and without"))
    print(f"took {summary.seconds:.2g} s")
    return 0


def optimize_to(args: argparse.Namespace, target: str):
    """Write the fused model to `target`, as if it was OUT, and return the summary."""
    from onnx_fusion.api import optimize_file

    if args.embed_ptx and args.device == "cpu":
        raise OnnxFusionError("--embed-ptx needs --target cuda or both")
    try:
        with show.progress() as progress:
            return optimize_file(
                args.source,
                target,
                fallback=not args.no_fallback,
                progress=progress,
                tuning=tuning(args),
                embed_ptx=args.embed_ptx,
                single_file=args.single_file,
                home=args.target,
                **planning(args),
            )
    except KeyboardInterrupt:
        if args.tune:
            show.say("what was measured is kept; another run goes on from there")
        raise


def optimize_verified(args: argparse.Namespace):
    """Write the fused model next to the target, compare, and move it there only if it is equal."""
    from onnx_fusion.runtime.verify import verify

    target = Path(args.target)
    folder = None
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
        made = Path(folder) / target.name
        summary = optimize_to(args, str(made))
        for library in (True,) if args.no_fallback else (True, False):
            report = verify(args.source, str(made), library=library)
            if not report.passed:
                raise VerifyError(f"{target}: not written: {report.failure()}")
        files = [str(target.parent / Path(path).name) for path in summary.files]
        # The model comes last: until then the target is what it was.
        for path, final in reversed([*zip(summary.files, files, strict=True)]):
            os.replace(path, final)
        summary = dataclasses.replace(summary, files=files)
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise OnnxFusionError(f"{target}: cannot be written: {said}") from None
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    return summary
