"""Files that show a plan: a page for a browser, and a graph for Graphviz."""

from __future__ import annotations

import html
import json
import string
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_fusion.cli import show
from onnx_fusion.cli.sketch import groups, label, mapping_name, producers, sketch, totals
from onnx_fusion.graph.model import walk
from onnx_fusion.graph.names import all_names

if TYPE_CHECKING:
    from onnx_fusion.api import Planned

COLOURS = {
    "one-to-one": "#a6d8a8",
    "one-to-many": "#f6c667",
    "many-to-many": "#8fb8f0",
    "reorganize": "#d9c2ee",
    "shuffle": "#f3a6b5",
    "opaque": "#c3c8cf",
}
"""A colour for each mapping type, as in page.js."""


def write_html(planned: Planned, title: str) -> str:
    """Return one page that needs nothing else: the drawing, the refusals by reason, the totals."""
    here = Path(__file__).parent
    # "</" would end the script that holds the data.
    data = json.dumps(sketch(planned), separators=(",", ":")).replace("</", "<\\/")
    page = string.Template((here / "page.html").read_text(encoding="utf-8"))
    told = "".join(
        f'<div class="tile"><b>{html.escape(number)}</b><span>{html.escape(what)}</span></div>'
        for number, what in describe(totals(planned))
    )
    script = (here / "page.js").read_text(encoding="utf-8")
    return page.substitute(title=html.escape(title), totals=told, data=data, script=script)


def describe(found: dict[str, int]) -> list[tuple[str, str]]:
    """Return the totals as numbers and what they are of."""
    before, after = found["operators_before"], found["operators_after"]
    given, left = found["bytes_before"], found["bytes_after"]
    regions = found["regions"]
    less = f" ({given / left:.1f}x less)" if left else ""
    return [
        (f"{before} → {after}", f"operators ({before / max(after, 1):.2f}x fewer)"),
        (str(regions), f"regions, of {found['fused'] / max(regions, 1):.1f} nodes on average"),
        (f"{show.amount(given)} → {show.amount(left)}", f"intermediate results{less}"),
        (str(after - regions), "nodes stay as they are"),
    ]


def write_dot(planned: Planned, title: str) -> str:
    """Return the plan in Graphviz's language: a cluster for each region."""
    lines = [f"digraph {_quote(title)} {{", "  node [shape=box, style=filled, fontname=monospace];"]
    number: dict[object, int] = {}
    edges = []
    for graph in walk(planned.graph):
        for group in groups(planned, graph):
            inside = "  "
            if group.lowered is not None:
                region = group.lowered.region
                lines.append(f"  subgraph {_quote('cluster_' + region.name)} {{")
                lines.append(f"    label={_quote(region.name)};")
                inside = "    "
            for node in group.nodes:
                number[node] = len(number)
                names = "\n".join(all_names((node,), planned.model.proto))
                lines.append(
                    f"{inside}n{number[node]} [label={_quote(label(node))}, "
                    f'tooltip={_quote(names)}, fillcolor="{COLOURS[mapping_name(node)]}"];'
                )
            if group.lowered is not None:
                lines.append("  }")
        for node in graph.nodes:
            edges += [f"  n{number[p]} -> n{number[node]};" for p in producers(node) if p in number]
    return "\n".join([*lines, *edges, "}", ""])


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
