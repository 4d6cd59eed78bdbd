"""The operator table: every row, found by domain and op_type."""

from __future__ import annotations

from onnx_fusion.graph.model import LOCAL, Node
from onnx_fusion.ops import (
    activation,
    attention,
    classified,
    contraction,
    contrib,
    einsum,
    elementwise,
    movement,
    norms,
    pieces,
    pool,
    position,
    quantized,
    resize,
    rows,
    series,
    transposed,
)
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.row import Row

MODULES = (
    classified, elementwise, activation, movement, pieces, position, rows, norms, contraction,
    pool, transposed, resize, einsum, series, quantized, attention, contrib,
)  # fmt: skip
TABLE: dict[tuple[str, str], Row] = {
    (row.domain, row.op_type): row for module in MODULES for row in module.ROWS
}


def find(node: Node) -> Row:
    """Return the node's row; an operator without one is opaque."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    found = TABLE.get((domain, node.op_type))
    if found is not None:
        return found
    if domain.startswith(LOCAL):
        reason = f"{node.op_type} is one of the model's own functions"
        return Row(node.op_type, MappingType.OPAQUE, reason=reason)
    where = f"{domain}::{node.op_type}" if domain else node.op_type
    return Row(node.op_type, MappingType.OPAQUE, reason=f"no row for {where}")
