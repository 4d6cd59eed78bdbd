"""`optimize IN OUT`: write the fused model, and say in a few lines what was done."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from onnx_fusion.cli import show
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
    parser.set_defaults(run=run)


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
        "--strict",
        action="store_true",
        help="no change of arithmetic: no Winograd, no folded BatchNormalization, no reassociation",
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
        help="fuse nothing but these",
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

        show.table(("rule", "results", "what it does"),
                   [(one.name, one.exactness, one.about) for one in list_rules()], left=3)
        parser.exit()


def number(text: str) -> int:
    """Return the text as a number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value


def planning(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that `add_planning` added, as the API's functions take them."""
    return {
        "policy": args.policy,
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
    print(
        f"intermediate results: {show.amount(summary.irs_bytes_before)} before, "
        f"{show.amount(summary.irs_bytes_after)} after"
    )
    if args.verify:
        print("verified: with the library" + ("" if args.no_fallback else " and without"))
    print(f"took {summary.seconds:.2g} s")
    return 0


def optimize_to(args: argparse.Namespace, target: str):
    """Write the fused model to `target` and return the summary."""
    from onnx_fusion.api import optimize_file

    with show.progress() as progress:
        return optimize_file(
            args.source,
            target,
            fallback=not args.no_fallback,
            progress=progress,
            **planning(args),
        )


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
        if list(Path(folder).iterdir()) == [made]:
            os.replace(made, target)
        else:
            # Its data's name depends on the files beside the target, so it is written anew there.
            optimize_to(args, args.target)
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise OnnxFusionError(f"{target}: cannot be written: {said}") from None
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    return summary
