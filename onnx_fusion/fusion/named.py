"""Whether the names that a user gives to skip nodes, or to plan no others, name anything."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.load import Model
from onnx_fusion.graph.model import Graph, walk
from onnx_fusion.graph.names import every_path, is_inside, node_name
from onnx_fusion.ops.table import TABLE


def check_names(model: Model, graph: Graph, names: Collection[str], option: str) -> list[str]:
    """Return a sentence for each name that is an operator type of which the model has no node.

    Names are of nodes and operator types, of the model or of the graph that passes made of it, of
    bodies and functions. Raises OnnxFusionError for one that is none of these.
    """
    if not names:
        return []
    paths = {one.path: () for one in walk(graph)} | every_path(model.proto)
    known = {node.op_type for nodes in paths.values() for node in nodes}
    known |= {path + node_name(n, k) for path, nodes in paths.items() for k, n in enumerate(nodes)}
    for one in walk(graph):
        known |= {name for node in one.nodes for name in (node.op_type, node.name)}
    notes = []
    for name in dict.fromkeys(names):
        if name in known or any(is_inside(path, (name,)) for path in paths):
            continue
        if any(name == op_type for _, op_type in TABLE):
            notes.append(f"{option} {name}: the model has no such node")
            continue
        near = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        raise OnnxFusionError(
            f"{model.where}: {option} '{name}' is neither a node nor an operator type"
            f"{meant}; 'explain --json' shows the names"
        )
    return notes
