"""Arguments in, exit code out: 0 done, 1 an error in one line, 2 usage, 130 interrupted."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from onnx_fusion.cli import bench, bisect, explain, latency, optimize, verify
from onnx_fusion.errors import OnnxFusionError

INTERRUPTED = 130
COMMANDS = (optimize, explain, verify, bench, bisect, latency)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; every command's parser sets `run` to its function."""
    parser = argparse.ArgumentParser(
        prog="onnx-fusion",
        description="Fuse the operators of an ONNX model into regions that run as one kernel each.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    for sub in commands.choices.values():
        sub.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return parser


class Interrupt:
    """A handler of Ctrl-C as Python's is, that remembers whether it was called.

    An extension module turns an exception that comes while it is imported into an ImportError.
    """

    def __init__(self) -> None:
        self.came = False

    def __call__(self, *_: object) -> None:
        self.came = True
        raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None, interrupt: Interrupt | None = None) -> int:
    """Run one command and return the process's exit code; errors are one line on stderr.

    `interrupt` is the process's handler of Ctrl-C, if it has one of this kind.
    """
    args = build_parser().parse_args(argv)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python would report the same error again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except OnnxFusionError as error:
        return fail(one_line(error), args.debug)
    except Exception as error:
        if isinstance(error, ImportError) and interrupt is not None and interrupt.came:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        return fail(f"{type(error).__name__}: {one_line(error)}", args.debug)


def one_line(error: BaseException) -> str:
    """Return the error's text without line breaks."""
    return " ".join(str(error).split()) or "no message"


def fail(message: str, debug: bool) -> int:
    """Print `message` to stderr, after the traceback if asked for, and return 1."""
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    return 1
