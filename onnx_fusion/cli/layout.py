"""A layered drawing of an acyclic graph: rows by longest path, few crossings, short edges.

    row 0     [a]   [b]          an edge over several rows passes a point in each row between,
               |     | \\         so that boxes make room for it
    row 1     [c]    |  [d]
                \\    .  /
    row 2        [ e  ]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

SWEEPS = 6
LONGEST, SHARED, MOST = 40, 8, 3
"""An edge over more than LONGEST rows is far, and so is one over more than SHARED rows if more than
MOST leave its source: a mask that every layer reads."""


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """A place in the drawing: the left upper corner, and the size."""

    x: float
    y: float
    width: float
    height: float


@dataclasses.dataclass(frozen=True, slots=True)
class Drawing:
    """A box for each node, the points each edge passes between its ends, and the size of all.

    A route is None for a far edge: it passes where it likes, so only its ends are to be drawn.
    """

    boxes: list[Box]
    routes: list[list[tuple[float, float]] | None]
    width: float
    height: float


def place(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    gap: tuple[float, float] = (24.0, 36.0),
) -> Drawing:
    """Return a drawing of nodes of these sizes, numbered in topological order.

    Each edge leads from a smaller number to a larger one. `gap` is the space between neighbours
    and between rows. The time is proportional to nodes and edges, and the sorting of each row.
    """
    if not sizes:
        return Drawing([], [[] for _ in edges], 0.0, 0.0)
    row = rank(len(sizes), edges)
    widths = [width for width, _ in sizes]
    rows: list[list[int]] = [[] for _ in range(max(row) + 1)]
    for node, its in enumerate(row):
        rows[its].append(node)
    up: list[list[int]] = [[] for _ in sizes]
    down: list[list[int]] = [[] for _ in sizes]
    chains: list[list[int] | None] = []
    leaving = [0] * len(sizes)
    for source, _ in edges:
        leaving[source] += 1
    for source, target in edges:
        chain, last = [], source
        if row[target] - row[source] > (SHARED if leaving[source] > MOST else LONGEST):
            chain = None
        else:
            for between in range(row[source] + 1, row[target]):
                point = len(widths)
                widths.append(2.0)
                up.append([last])
                down.append([])
                down[last].append(point)
                rows[between].append(point)
                chain.append(point)
                last = point
            down[last].append(target)
            up[target].append(last)
        chains.append(chain)
    centre = arrange(rows, up, down, widths, gap[0])
    heights = [max((sizes[n][1] for n in its if n < len(sizes)), default=0.0) for its in rows]
    tops, top = [], 0.0
    for height in heights:
        tops.append(top)
        top += height + gap[1]
    left = min(c - w / 2 for c, w in zip(centre, widths, strict=True))
    right = max(c + w / 2 for c, w in zip(centre, widths, strict=True))
    boxes = []
    for node, (width, height) in enumerate(sizes):
        y = tops[row[node]] + (heights[row[node]] - height) / 2
        boxes.append(Box(centre[node] - width / 2 - left, y, width, height))
    level = {point: its for its, members in enumerate(rows) for point in members}
    routes = [
        [
            (centre[p] - left, tops[level[p]] + offset * heights[level[p]])
            for p in chain
            for offset in (0.0, 1.0)
        ]
        if chain is not None
        else None
        for chain in chains
    ]
    return Drawing(boxes, routes, right - left, top - gap[1])


def rank(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return each node's row: below all it reads; what reads nothing is above its first use."""
    into: list[list[int]] = [[] for _ in range(count)]
    out: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        into[target].append(source)
        out[source].append(target)
    row = [0] * count
    for node in range(count):
        row[node] = max((row[source] + 1 for source in into[node]), default=0)
    for node in reversed(range(count)):
        if not into[node] and out[node]:
            row[node] = min(row[target] for target in out[node]) - 1
    return row


def arrange(
    rows: list[list[int]],
    up: list[list[int]],
    down: list[list[int]],
    widths: list[float],
    gap: float,
) -> list[float]:
    """Return the centre of every node along its row; sorts the rows on the way.

    Rows are swept down and up: each is sorted by the mean place of its nodes' neighbours, then
    pushed apart as little as possible.
    """
    centre = [0.0] * len(widths)
    for members in rows:
        spread(members, [0.0] * len(members), centre, widths, gap)
    for sweep in range(SWEEPS):
        downward = sweep % 2 == 0
        near = up if downward else down
        for members in rows if downward else reversed(rows):
            if sweep < SWEEPS - 2:
                wanted = {n: mean(near[n], centre, centre[n]) for n in members}
                members.sort(key=lambda n, wanted=wanted: wanted[n])
            else:
                wanted = {n: mean([*up[n], *down[n]], centre, centre[n]) for n in members}
            spread(members, [wanted[n] for n in members], centre, widths, gap)
    return centre


def mean(nodes: list[int], centre: list[float], default: float) -> float:
    """Return the nodes' mean place."""
    return sum(centre[n] for n in nodes) / len(nodes) if nodes else default


def spread(
    members: list[int],
    wanted: list[float],
    centre: list[float],
    widths: list[float],
    gap: float,
) -> None:
    """Set the centres of a row in its order, without overlap, as near to `wanted` as squares go.

    With the least distances taken off, this is isotonic regression: neighbours in the wrong order
    are pooled at their mean.
    """
    offset, offsets = 0.0, []
    for position, node in enumerate(members):
        if position:
            before = members[position - 1]
            offset += (widths[before] + widths[node]) / 2 + gap
        offsets.append(offset)
    pools: list[tuple[float, int]] = []
    for want, shift in zip(wanted, offsets, strict=True):
        total, count = want - shift, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            other, more = pools.pop()
            total, count = total + other, count + more
        pools.append((total, count))
    position = 0
    for total, count in pools:
        for _ in range(count):
            centre[members[position]] = total / count + offsets[position]
            position += 1
