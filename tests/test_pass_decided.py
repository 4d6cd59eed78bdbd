"""Conditions that follow from shapes, and what that says of an If's results."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from bodies_models import HEAD, parse

from onnx_fusion.graph.load import load
from onnx_fusion.graph.view import view
from onnx_fusion.passes.decided import decide
from onnx_fusion.passes.infer import infer
from onnx_fusion.passes.pipeline import prepare

CONDITION = HEAD + """
main (float[4, {extent}] x) => (bool c)
<int64 zero = {{0}}, int64 one = {{1}}, int64 four = {{4}}, int64 five = {{5}}>
{{
    s = Shape (x)
    a = Gather (s, zero)
    b = Gather (s, one)
    {lines}
}}
"""

UNSQUEEZED = HEAD + """
main (float[2, 1, 8] x) => (float[2, 8] y)
<int64 k = {1}, int64[1] axes = {1}>
{
    s = Shape (x)
    n = Gather (s, k)
    c = Equal (n, k)
    [squeeze] d = If (c) <
        then_branch = yes () => (float[A, B] p) { p = Squeeze (x, axes) },
        else_branch = no () => (float[A, B, C] q) { q = Identity (x) }
    >
    e = Exp (d)
    y = Neg (e)
}
"""


@pytest.mark.parametrize("lines", [
    "c = Equal (a, four)", "c = Equal (a, b)", "c = Less (a, b)", "c = Greater (a, b)",
    "c = GreaterOrEqual (a, four)", "c = LessOrEqual (b, four)", "c = Cast <to = 9> (b)",
    "d = Equal (a, four)\n c = Not (d)", "d = Equal (a, b)\n e = Less (a, b)\n c = Or (d, e)",
    "d = Equal (a, b)\n e = Less (a, b)\n c = And (d, e)",
    "d = Equal (a, four)\n e = Less (a, b)\n c = Xor (d, e)",
    "r = Size (s)\n c = Equal (r, one)",
    "d = Sub (a, four)\n e = Cast <to = 9> (d)\n c = Identity (e)",
])
def test_what_onnx_runtime_computes(lines: str) -> None:
    model = parse(CONDITION.format(extent=5, lines=lines))
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": np.zeros((4, 5), np.float32)})
    assert decide(infer(view(load(model))).outputs[0]) is bool(wanted)


@pytest.mark.parametrize("lines", ["c = Equal (b, four)", "d = Less (b, four)\n c = Not (d)",
                                   "c = Cast <to = 9> (b)"])
def test_unknown_extents_decide_nothing(lines: str) -> None:
    assert decide(infer(view(load(parse(CONDITION.format(extent="N", lines=lines))))).outputs[0]) \
        is None


def test_a_decided_if_has_the_shape_of_its_branch() -> None:
    shapes = {name: value.shape for name, value in prepare(load(parse(UNSQUEEZED))).values.items()}
    assert shapes["d"] == shapes["e"] == (2, 8)
    open_text = UNSQUEEZED.replace("float[2, 1, 8]", "float[2, N, 8]")
    shapes = {name: value.shape for name, value in prepare(load(parse(open_text))).values.items()}
    assert shapes["d"] is None
