"""What pages and Graphviz files show of a plan: nodes with places, regions, refusals, totals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnx_fusion.cli.layout import Box, place
from onnx_fusion.graph.model import Graph, Node, Value, walk
from onnx_fusion.graph.names import all_names
from onnx_fusion.graph.scope import every_node
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.ops import table

if TYPE_CHECKING:
    from onnx_fusion.api import Planned
    from onnx_fusion.lower import Lowered

LETTER, LINE, MARGIN, TITLE, FOOT = 6.6, 15.0, 10.0, 18.0, 12.0
"""Sizes in pixels: a letter's width, a line's height, a box's inner margin, a region's heading and
the line below its nodes."""
LONGEST_NAME = 34


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Nodes that are drawn in one box: a region's, or one node that stays as it is."""

    nodes: tuple[Node, ...]
    lowered: Lowered | None


def mapping_name(node: Node) -> str:
    """Return a node's mapping type as a word; operators without a lowering have one too."""
    return table.find(node).mapping_of(node).value


def kinds(planned: Planned) -> dict[str, int]:
    """Return how many nodes each mapping type has in the graphs that were planned."""
    found: dict[str, int] = {}
    for graph in walk(planned.graph):
        for node in graph.nodes:
            kind = mapping_name(node)
            found[kind] = found.get(kind, 0) + 1
    return found


def groups(planned: Planned, graph: Graph) -> list[Group]:
    """Return a graph's boxes, so ordered that each reads only from those before it."""
    owner = {node: one for one in planned.lowered for node in one.region.nodes}
    made: dict[object, Group] = {}
    for node in graph.nodes:
        one = owner.get(node)
        key = one if one is not None else node
        made.setdefault(key, Group(one.region.nodes if one is not None else (node,), one))
    reads: dict[Group, set[Group]] = {}
    home = {node: group for group in made.values() for node in group.nodes}
    for group in made.values():
        reads[group] = {home[p] for p in before(group) if p in home} - {group}
    return _sort(list(made.values()), reads)


def _sort(found: list[Group], reads: dict[Group, set[Group]]) -> list[Group]:
    waiting = {group: len(sources) for group, sources in reads.items()}
    readers: dict[Group, list[Group]] = {group: [] for group in found}
    for group in found:
        for source in reads[group]:
            readers[source].append(group)
    ready = [group for group in reversed(found) if not waiting[group]]
    ordered = []
    while ready:
        group = ready.pop()
        ordered.append(group)
        for reader in readers[group]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return ordered


def producers(node: Node) -> list[Node]:
    """Return the nodes that this one or its bodies read from, each once."""
    values = (*node.inputs, *node.captures)
    found = (v.producer for v in values if v is not None and v.weight is None)
    return list(dict.fromkeys(p for p in found if p is not None))


def before(group: Group) -> list[Node]:
    """Return the nodes that a box waits for: a region needs no shape tensor that its program has
    not."""
    if group.lowered is None:
        return [p for node in group.nodes for p in producers(node)]
    return [v.producer for v in group.lowered.inputs if v.producer is not None]


def sketch(planned: Planned) -> dict[str, Any]:
    """Return the plan as plain data for a page: see page.js for how it is drawn."""
    nodes: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    below, width = 0.0, 0.0
    for graph in walk(planned.graph):
        drawn = _draw(planned, graph, below, len(nodes), len(boxes))
        nodes += drawn["nodes"]
        boxes += drawn["boxes"]
        edges += drawn["edges"]
        below += drawn["height"] + 8 * LINE
        width = max(width, drawn["width"])
    return {
        "nodes": nodes,
        "regions": boxes,
        "edges": edges,
        "size": [round(width), round(below)],
        "refusals": [[r.reason, r.producer, r.consumer] for r in planned.plan.refusals],
        "opaque": planned.plan.opaque,
        "totals": totals(planned),
    }


def totals(planned: Planned) -> dict[str, int]:
    """Return operators (Constant is none) and bytes of intermediate results, before and after."""
    graphs = list(walk(planned.graph))
    proto = planned.model.proto.graph
    before = sum(node.op_type != "Constant" for node in every_node(proto))
    covered = sum(len(region.nodes) for region in planned.plan.regions)
    left = sum(len(graph.nodes) for graph in graphs) - covered
    values = (v for graph in graphs for node in graph.nodes for v in node.outputs)
    size = sum(irs_bytes(v) for v in values if v is not None and not v.is_output)
    saved = sum(region.irs_bytes_saved for region in planned.plan.regions)
    regions = len(planned.plan.regions)
    return {
        "operators_before": before,
        "operators_after": left + regions,
        "regions": regions,
        "fused": covered,
        "bytes_before": size,
        "bytes_after": size - saved,
    }


def _draw(
    planned: Planned, graph: Graph, below: float, first_node: int, first_box: int
) -> dict[str, Any]:
    """Return one graph's boxes, moved down by `below` and numbered from the given numbers on."""
    found = groups(planned, graph)
    inner, sizes = [], []
    for group in found:
        position = {node: k for k, node in enumerate(group.nodes)}
        pairs = [
            (position[p], k)
            for k, node in enumerate(group.nodes)
            for p in producers(node)
            if p in position
        ]
        labels = [_size(node) for node in group.nodes]
        drawing = place(labels, pairs, (16.0, 16.0))
        inner.append((drawing, pairs))
        if group.lowered is None:
            sizes.append((drawing.width, drawing.height))
            continue
        title = max(len(heading(group.lowered)), len(outcome(group.lowered))) * LETTER
        wide = max(drawing.width, title) + 2 * MARGIN
        sizes.append((wide, drawing.height + 2 * MARGIN + TITLE + FOOT))
    home = {node: k for k, group in enumerate(found) for node in group.nodes}
    outer = sorted({
        (home[p], k)
        for k, group in enumerate(found)
        for p in before(group)
        if p in home and home[p] != k
    })  # fmt: skip
    drawing = place(sizes, outer, (36.0, 44.0))
    nodes, boxes, edges = [], [], []
    at: dict[Node, Box] = {}
    for group, frame, (its, _) in zip(found, drawing.boxes, inner, strict=True):
        region = len(boxes) + first_box if group.lowered is not None else -1
        down = MARGIN + TITLE if group.lowered is not None else 0.0
        shift = ((frame.width - its.width) / 2, down)
        for node, box in zip(group.nodes, its.boxes, strict=True):
            x, y = frame.x + box.x + shift[0], frame.y + box.y + shift[1] + below
            at[node] = Box(x, y, box.width, box.height)
            why = table.find(node).reason if region < 0 else ""
            told = _tell(planned, node)
            nodes.append({"box": _round(at[node]), "region": region, "why": why, **told})
        if group.lowered is not None:
            moved = Box(frame.x, frame.y + below, frame.width, frame.height)
            members = range(first_node + len(nodes) - len(group.nodes), first_node + len(nodes))
            boxes.append(
                {"box": _round(moved), "nodes": list(members), **_tell_region(group.lowered)}
            )
    number = {node: first_node + k for k, node in enumerate(n for g in found for n in g.nodes)}
    routes = dict(zip(outer, drawing.routes, strict=True))
    for node, its in number.items():
        for value in dict.fromkeys((*node.inputs, *node.captures)):
            source = value.producer if value is not None and value.weight is None else None
            if source not in number:
                continue
            route = routes.get((home[source], home[node]), [])
            points = route and [[round(x), round(y + below)] for x, y in route]
            edges.append({"ends": [number[source], its], "route": points})
    return {
        "nodes": nodes, "boxes": boxes, "edges": edges,
        "width": drawing.width, "height": drawing.height,
    }  # fmt: skip


def _size(node: Node) -> tuple[float, float]:
    return max(len(label(node)), 4) * LETTER + 2 * MARGIN, LINE + MARGIN


def label(node: Node) -> str:
    """Return what is written into a node's box."""
    return node.op_type[:LONGEST_NAME]


def _round(box: Box) -> list[int]:
    return [round(box.x), round(box.y), round(box.width), round(box.height)]


def _tell(planned: Planned, node: Node) -> dict[str, Any]:
    return {
        "op": label(node),
        "names": all_names((node,), planned.model.proto),
        "kind": mapping_name(node),
        "in": [_value(v) for v in node.inputs if v is not None],
        "out": [_value(v) for v in node.outputs if v is not None],
    }


def heading(lowered: Lowered) -> str:
    """Return what is written above a region's nodes."""
    template = lowered.region.template
    return lowered.region.name + (f" · {template}" if template else "")


def outcome(lowered: Lowered) -> str:
    """Return what is written below a region's nodes: the shape of what it gives."""
    first, *rest = lowered.outputs
    shape = "?" if first.shape is None else " × ".join(map(str, first.shape))
    return f"→ {shape or 'scalar'}" + (f" and {len(rest)} more" if rest else "")


def _tell_region(lowered: Lowered) -> dict[str, Any]:
    region = lowered.region
    return {
        "name": region.name,
        "heading": heading(lowered),
        "outcome": outcome(lowered),
        "anchor": region.anchor.op_type if region.anchor is not None else "",
        "kind": region.mapping_type.value,
        "template": region.template or "",
        "saved": region.irs_bytes_saved,
        "in": [_value(v, lowered.layouts.get(v)) for v in lowered.inputs],
        "out": [_value(v, lowered.layouts.get(v)) for v in lowered.outputs],
        "program": lowered.program,
    }


def _value(value: Value, order: Sequence[int] | None = None) -> str:
    """Return a value's name, type, shape, bytes, and order of dims in memory in one line."""
    shape = "?" if value.shape is None else ", ".join(map(str, value.shape))
    memory = "" if order is None else f" in order {tuple(order)}"
    kind = "constant, " if value.weight is not None else ""
    return f"{value.name}: {value.dtype or '?'}[{shape}] ({kind}{irs_bytes(value):,} B){memory}"
