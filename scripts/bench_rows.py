"""What scripts/bench.py measured, and how its table and the lines below tell it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from onnx_fusion.cli import show
from onnx_fusion.runtime.duel import interval, interval_over

OURS, REFERENCE = "ours", "ort"
APPROXIMATE = ("mnn", "ncnn", "inductor")
MIB = 1 << 20


@dataclasses.dataclass(slots=True)
class Measured:
    """One engine on one model: seconds of each sample in order, of creating a session (median), and
    the bytes that its creation and first run added at most; `error` is the largest difference from
    ONNX Runtime's results over their range."""

    samples: list[float]
    create: float
    peak: int
    version: str
    error: float

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)


@dataclasses.dataclass(slots=True)
class Row:
    """One model at one number of threads in one restart; `missing` says why engines are not."""

    model: str
    threads: int
    regions: int
    engines: dict[str, Measured] = dataclasses.field(default_factory=dict)
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def ratio(self, peer: str) -> tuple[float, float, float] | None:
        """Return peer / ours with the bounds of its interval; None if one of the two is missing."""
        found = self.pair(peer)
        if found is None:
            return None
        ours, theirs = found
        if theirs is ours:
            return 1.0, 1.0, 1.0
        return theirs.median / ours.median, *interval(ours.samples, theirs.samples, 50)

    def pair(self, peer: str) -> tuple[Measured, Measured] | None:
        """Return this project's engine, ONNX Runtime's if nothing is fused, and the peer's."""
        theirs = self.engines.get(peer)
        ours = self.engines.get(OURS) or (None if self.regions else self.engines.get(REFERENCE))
        return None if theirs is None or ours is None else (ours, theirs)

    def best(self) -> float | None:
        """Return the ratio against the better of ONNX Runtime and OpenVINO."""
        found = [self.ratio(peer) for peer in ("ort", "openvino")]
        return None if None in found else min(ratio for ratio, *_ in found)


def cells(row: Row, peers: Sequence[str]) -> list[str]:
    """Return the row as the table shows it."""
    ours, theirs = row.engines.get(OURS), row.engines.get(REFERENCE)
    cell = [row.model, str(row.threads), str(row.regions)]
    cell += [f"{1e3 * one.median:.4g}" if one else "-" for one in (ours, theirs)]
    for peer in peers:
        found = row.ratio(peer)
        if found is None:
            cell.append("-")
        elif not row.regions and peer == REFERENCE:
            cell.append("1 (unchanged)")
        else:
            cell.append("{:.2f} ({:.2f}-{:.2f})".format(*found))
    for one in (ours, theirs):
        cell.append(f"{1e3 * one.create:.3g}" if one else "-")
    for one in (ours, theirs):
        cell.append(f"{one.peak / MIB:.0f}" if one else "-")
    errors = [ours, *(row.engines.get(peer) for peer in peers if peer in APPROXIMATE)]
    return [*cell, " ".join(f"{one.error:.0e}" if one else "-" for one in errors)]


def over_restarts(rows: Sequence[Row], peer: str) -> tuple[float, float, float] | None:
    """Return the geometric mean of peer / ours over restarts of a model, with its interval."""
    pairs = [found for row in rows if (found := row.pair(peer))]
    if not pairs:
        return None
    mean = statistics.geometric_mean([theirs.median / ours.median for ours, theirs in pairs])
    samples = [(ours.samples, theirs.samples) for ours, theirs in pairs]
    return mean, *interval_over(samples, 50)


def restart_lines(rows: Sequence[Row], peers: Sequence[str]) -> list[str]:
    """Return a line for each model and number of threads that has several restarts, and the lowest
    end of an interval."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.threads), []).append(row)
    lines, lows = [], []
    for (model, threads), some in groups.items():
        if len(some) < 2:
            continue
        found = {peer: ratio for peer in peers if (ratio := over_restarts(some, peer))}
        told = ("{} {:.2f} ({:.2f}-{:.2f})".format(peer, *ratio) for peer, ratio in found.items())
        head = f"{model}, {show.plural(threads, 'thread')}, {len(some)} restarts"
        lines.append(f"{head}: {', '.join(told)}")
        if REFERENCE in found:
            lows.append((found[REFERENCE][1], model))
    if lows:
        lines.append("lowest end of an interval over restarts: {:.3f} ({})".format(*min(lows)))
    return lines


def summary(rows: Sequence[Row], peers: Sequence[str]) -> list[str]:
    """Return a line for each number of threads: geometric means over models and restarts."""
    lines = []
    for threads in sorted({row.threads for row in rows}):
        some = [row for row in rows if row.threads == threads]
        means = []
        for peer in peers:
            ratios = [found[0] for row in some if (found := row.ratio(peer))]
            if ratios:
                means.append(f"{peer} {statistics.geometric_mean(ratios):.3f} ({len(ratios)})")
        best = [ratio for row in some if (ratio := row.best()) is not None]
        if best and "openvino" in peers:
            means.append(f"better of ort and openvino {statistics.geometric_mean(best):.3f}")
        lows = [(row.ratio(REFERENCE)[1], row.model) for row in some if row.ratio(REFERENCE)]
        worst = "; lowest interval {:.3f} ({})".format(*min(lows)) if lows else ""
        head = f"geometric means, {show.plural(threads, 'thread')}"
        lines.append(f"{head}: {', '.join(means)}{worst}")
    return lines
