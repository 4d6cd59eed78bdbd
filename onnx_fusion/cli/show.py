"""What the commands print: data to stdout, talk and progress to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from onnx_fusion.errors import OnnxFusionError

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Value
    from onnx_fusion.lower import Lowered

Report = Callable[[str, float], None]


def say(text: str) -> None:
    """Print one line of talk to stderr."""
    print(text, file=sys.stderr)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print rows under a head to stdout; the first `left` columns are aligned to the left.

    On a terminal rich draws it; elsewhere each row is one line, whatever its length.
    """
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=box.SIMPLE_HEAD)
        for column, title in enumerate(head):
            justify = "left" if column < left else "right"
            drawn.add_column(Text(title), justify=justify, overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(drawn)
        return
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


@contextlib.contextmanager
def progress() -> Iterator[Report | None]:
    """Yield a callable (step, fraction done) that draws a bar on stderr, or None off a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda step, fraction: bar.update(task, description=step, completed=fraction)


def amount(size: int) -> str:
    """Return a number of bytes as people read it: `1.5 MiB`."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def label(value: Value, lowered: Lowered) -> str:
    """Return a value's name and, if it is no row to the region, the order of its dims in memory."""
    order = lowered.layouts.get(value)
    return value.name if order is None else f"{value.name} in order {order}"


def plural(count: int, word: str) -> str:
    """Return `1 region`, `2 regions`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def refuse_same(source: str, target: str) -> None:
    """Raise if `target` is the file `source`, also through links: the input is never written."""
    with contextlib.suppress(OSError):
        if os.path.samefile(source, target):
            raise OnnxFusionError(f"{target}: is the input itself; choose another output file")
