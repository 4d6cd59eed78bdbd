"""Mathematical rewriting (DNNFusion, section 4.2): fewer operations for the same results."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from onnx_fusion.graph.model import Graph
from onnx_fusion.passes.rewrite import (
    activations,
    algebra,
    branches,
    contraction,
    moves,
    share,
    table4,
)
from onnx_fusion.passes.rewrite.engine import run
from onnx_fusion.passes.rewrite.model import Exactness, Rule

RULES: tuple[Rule, ...] = (*table4.RULES, *share.RULES, *algebra.RULES, *activations.RULES,
                           *moves.RULES, *contraction.RULES, *branches.RULES)


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A rule as the command line lists it; `exactness` is a phrase."""

    name: str
    exactness: str
    about: str


def list_rules() -> list[Listed]:
    """Return every rule once, the paper's ten first."""
    found: dict[str, Listed] = {}
    for rule in RULES:
        found.setdefault(rule.name, Listed(rule.name, rule.exactness.value, rule.about))
    return list(found.values())


def tidy(graph: Graph, *, disabled: Collection[str] = ()) -> Graph:
    """Apply the exact rules, which keep the shape of what `recognize` looks for; return `graph`."""
    rules = [*algebra.COPIES, *algebra.NEUTRAL, *share.RULES]
    return run(graph, [r for r in rules if r.exactness is Exactness.EXACT], disabled=disabled)


def rewrite(graph: Graph, *, strict: bool = False, disabled: Collection[str] = ()) -> Graph:
    """Apply all rules but those in `disabled`, exact ones only under `strict`; return `graph`.

    Shapes must be inferred, and are for what is new. Values keep their names and meaning. Changed
    nodes hold what they were made of in `parts`. `infer` and `fold` must not run afterwards: the
    changed nodes have no protos, or some with other names.
    """
    return run(graph, RULES, strict=strict, disabled=disabled)
