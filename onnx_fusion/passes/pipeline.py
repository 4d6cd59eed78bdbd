"""The passes before planning, in their order."""

from __future__ import annotations

from collections.abc import Collection

from onnx_fusion.graph.load import Model
from onnx_fusion.graph.model import Graph
from onnx_fusion.graph.view import view
from onnx_fusion.passes import arrange
from onnx_fusion.passes.fold import fold
from onnx_fusion.passes.fold_batchnorm import fold_batchnorm
from onnx_fusion.passes.infer import infer
from onnx_fusion.passes.recognize import recognize
from onnx_fusion.passes.rewrite import rewrite, tidy
from onnx_fusion.passes.sources import RULE, read_sources
from onnx_fusion.passes.state import state

_MAX_ROUNDS = 8


def prepare(model: Model, *, strict: bool = False, disabled: Collection[str] = ()) -> Graph:
    """Return the graph that is planned: shapes inferred, constants folded, row norms recognised,
    operations saved by rewriting, channels in an order that saves shuffles.

    Under `strict` nothing that changes a rounding is done: BatchNormalization stays as it is, and
    only exact rules are applied. `disabled` names rules (passes.rewrite.list_rules) to leave out.
    """
    graph = infer(view(model))
    for _ in range(_MAX_ROUNDS):
        before = _state(graph)
        infer(fold(graph))
        if _state(graph) == before:
            break
    if RULE not in disabled:
        read_sources(graph)
    state(graph)
    recognize(tidy(graph, disabled=disabled), strict=strict)
    if not strict:
        fold_batchnorm(graph)
    rewrite(graph, strict=strict, disabled=disabled)
    return graph if strict or arrange.RULE in disabled else arrange.arrange(graph)


def _state(graph: Graph) -> tuple[int, int]:
    """Return what grows or shrinks as long as folding and inference still help each other."""
    static = sum(value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
                 for value in graph.values.values())
    return len(graph.nodes), static
