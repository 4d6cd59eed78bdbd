"""`latency list | export FILE | import FILE | clear`: what was measured on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from onnx_fusion.cli import show
from onnx_fusion.errors import OnnxFusionError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and what it can do."""
    parser = commands.add_parser("latency", help="show, export, import or clear measured latencies")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="print every entry")
    for name, what in (
        ("export", "write all entries to a file, - for stdout"),
        ("import", "take in the entries of an exported file"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("file", metavar="FILE", help="one JSON object a line")
    actions.add_parser("clear", help="remove every entry")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; say on stderr which file it was about."""
    from onnx_fusion.runtime.latency import Database, read_text, write_text

    database = Database()
    if args.action == "list":
        list_entries(database.entries())
    elif args.action == "clear":
        show.say(f"{show.plural(database.clear(), 'measurement')} removed")
    elif args.action == "export":
        entries = database.entries()
        write(args.file, write_text(entries))
        show.say(f"{show.plural(len(entries), 'measurement')} exported")
    else:
        count = database.put(read_text(read(args.file), args.file))
        show.say(f"{show.plural(count, 'measurement')} imported")
    show.say(str(database.path))
    return 0


def list_entries(entries) -> None:
    """Print a table of entries, the same machine's together."""
    head = (
        "what",
        "sizes",
        "threads",
        "ORT us",
        "fused us",
        "ratio",
        "95 %",
        "cpu",
        "isa",
        "ort",
        "library",
    )
    rows = [
        (
            entry.what, entry.shapes or "-", str(entry.threads), f"{1e6 * entry.theirs:.4g}",
            f"{1e6 * entry.ours:.4g}", f"{entry.ratio:.3f}", f"{entry.low:.3f}-{entry.high:.3f}",
            entry.cpu, entry.isa, entry.ort, entry.library,
        )
        for entry in sorted(entries, key=lambda e: (e.cpu, e.isa, e.ort, e.library, -e.theirs))
    ]  # fmt: skip
    show.table(head, rows, left=2)


def write(file: str, text: str) -> None:
    """Write a text to a file, or to stdout."""
    if file == "-":
        sys.stdout.write(text)
        return
    try:
        Path(file).write_text(text)
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise OnnxFusionError(f"{file}: cannot be written: {said}") from None


def read(file: str) -> str:
    """Return a file's text, or stdin's."""
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text()
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise OnnxFusionError(f"{file}: cannot be read: {said}") from None
    except UnicodeDecodeError:
        raise OnnxFusionError(f"{file}: is no text") from None
