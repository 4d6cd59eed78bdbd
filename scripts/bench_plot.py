"""The plot of scripts/bench.py: how much faster than each peer, a group of bars for each model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from onnx_fusion.errors import OnnxFusionError


def plot(rows: Sequence[Any], peers: Sequence[str], machine: str, path: str) -> None:
    """Write a picture with a panel for each number of threads; medians over restarts."""
    try:
        import matplotlib
    except ImportError:
        what = "needs matplotlib; pip install 'onnx_fusion[plot]'"
        raise OnnxFusionError(f"{path}: {what}") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = sorted({row.threads for row in rows})
    models = list(dict.fromkeys(row.model for row in rows))
    height = 1.5 + 0.14 * len(models) * (len(peers) + 1)
    figure, panels = pyplot.subplots(
        1, len(counts), figsize=(6 * len(counts), height), sharey=True, squeeze=False
    )
    for panel, threads in zip(panels[0], counts, strict=True):
        for offset, peer in enumerate(peers):
            places, ratios = [], []
            for place, model in enumerate(models):
                some = [row for row in rows if (row.model, row.threads) == (model, threads)]
                if found := [ratio[0] for row in some if (ratio := row.ratio(peer))]:
                    places.append(place + (offset + 0.5) / (len(peers) + 1) - 0.5)
                    ratios.append(statistics.median(found))
            label = f"against {peer}"
            if ratios:
                label += f" (geometric mean {statistics.geometric_mean(ratios):.2f})"
            panel.barh(places, ratios, 1 / (len(peers) + 1), label=label)
        panel.axvline(1.0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(models)), models)
        panel.set_title(f"{threads} thread" + ("s" if threads > 1 else ""))
        panel.set_xlabel("times as fast")
        panel.legend(loc="lower right", fontsize="small")
    panels[0][0].invert_yaxis()
    figure.suptitle(machine, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
