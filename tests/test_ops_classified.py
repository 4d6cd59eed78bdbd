"""Every operator that the installed ONNX defines has a row; counts by mapping type (pytest -s)."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from onnx import defs

from onnx_fusion.fusion.grow import plan
from onnx_fusion.fusion.target import Target
from onnx_fusion.graph.load import load
from onnx_fusion.ops import classified, table
from onnx_fusion.ops.mapping import MappingType
from onnx_fusion.ops.row import Row
from onnx_fusion.passes.pipeline import prepare

SCHEMAS = sorted({(schema.domain, schema.name) for schema in defs.get_all_schemas()})
"""The operators of the newest opset of each of ONNX's own domains, deprecated ones too."""


def kind(row: Row) -> str:
    """Return the row's mapping type as a word."""
    return row.mapping.value if isinstance(row.mapping, MappingType) else "by its node"


def test_every_operator_has_a_row():
    missing = [f"{domain}::{name}" for domain, name in SCHEMAS if (domain, name) not in table.TABLE]
    assert len(SCHEMAS) >= 227 and not missing
    for domain in sorted({domain for domain, _ in table.TABLE}):
        rows = [row for (where, _), row in table.TABLE.items() if where == domain]
        lowered = Counter(kind(row) for row in rows if row.lower)
        left = Counter(kind(row) for row in rows if not row.lower)
        print(f"\n{domain or 'ai.onnx'}: {len(rows)} operators, {lowered.total()} with a lowering")
        for name in [*(one.value for one in MappingType), "by its node"]:
            if lowered[name] or left[name]:
                print(f"  {name:<13}{lowered[name]:>4} lowered{left[name]:>4} not")


def test_an_operator_has_one_row():
    found = Counter((row.domain, row.op_type) for module in table.MODULES for row in module.ROWS)
    assert [name for name, count in found.items() if count > 1] == []


def test_rows_name_operators_that_exist():
    """Rows of ONNX's domains are in `onnx.defs`: a misspelt name would hide a missing row. One is
    an operator that ONNX Runtime has there."""
    known = {domain for domain, _ in SCHEMAS}
    extra = [name for name in table.TABLE if name[0] in known and name not in set(SCHEMAS)]
    assert extra == [("", "SimplifiedLayerNormalization")]


def test_what_is_opaque_has_no_lowering_and_what_has_none_says_why():
    for row in table.TABLE.values():
        if row.mapping is MappingType.OPAQUE:
            assert row.lower is None, row.op_type
        assert (row.lower is None) == bool(row.reason), row.op_type


def test_reasons_are_specific():
    """Few operators share a reason, none of which is only its group's."""
    reasons = Counter(row.reason for row in classified.ROWS)
    assert max(reasons.values()) <= 3
    for row in classified.ROWS:
        group, _, detail = row.reason.partition(": ")
        assert group in classified.GROUPS and len(detail.split()) >= 3, row.op_type
    opaque = [row for row in classified.ROWS if row.mapping is MappingType.OPAQUE]
    assert len({row.reason for row in opaque}) >= 0.8 * len(opaque)


UNLOWERED = """<ir_version: 8, opset_import: ["" : 17]>
one (float[4, 1] a, float[4, 3] b) => (float[4, 3] y, int64[2, n] z)
{
    u8 = Cast <to=2> (a)
    c = Cast <to=2> (b)
    shifted = BitShift <direction="LEFT"> (u8, c)
    d = Cast <to=1> (shifted)
    y = Relu (d)
    z = NonZero (b)
}
"""


def test_an_operator_without_lowering_keeps_its_type_and_stays_out():
    graph = prepare(load(onnx.parser.parse_model(UNLOWERED)))
    made = plan(graph, Target(lambda region: None))
    kinds = {node.op_type: table.find(node).mapping_of(node) for node in graph.nodes}
    assert kinds["BitShift"] is MappingType.ONE_TO_MANY
    assert kinds["NonZero"] is MappingType.OPAQUE
    fused = {node.op_type for region in made.regions for node in region.nodes}
    assert fused == {"Cast", "Relu"}
    assert made.opaque == {"BitShift": 1, "NonZero": 1}
    reasons = {refusal.reason for refusal in made.refusals}
    assert any(reason.startswith("no lowering yet: programs have no shift") for reason in reasons)


@pytest.mark.parametrize("domain", ["", "com.microsoft", "somebody.else"])
def test_an_unknown_operator_is_opaque_and_named(domain):
    node = onnx.helper.make_node("Frobnicate", ["x"], ["y"], domain=domain)
    row = table.find(node)
    assert row.mapping is MappingType.OPAQUE and "Frobnicate" in row.reason
    assert domain in row.reason
