"""What is looked up for each key is not looked up again for each pair of query and key."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.program import interpret, parse_program

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
RNG = np.random.default_rng(5)
MASK = """
 g = Gather<axis = 1>(kept, at)
 c = Cast<to = 9>(g)
 b = And(c, rows)
 y = Where(b, x, low)
"""


def stages(text: str, feeds: dict[str, np.ndarray], **weights: np.ndarray) -> list[list[str]]:
    """Return the letters' extents of each stage of the one region, after the interpreter and the
    kernels gave what ONNX Runtime gives for the original."""
    model = onnx.parser.parse_model(HEAD + text)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    plain = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (wanted,) = plain.run(None, feeds)
    (one,) = api.plan_programs(model, policy="all").lowered
    program = parse_program(one.program)
    arrays = [feeds[v.name] if v.weight is None else v.weight.array() for v in one.inputs]
    (meant,) = interpret(program, arrays)
    (ran,) = onnx_fusion.session(api.optimize(model, policy="all"), library=True).run(None, feeds)
    np.testing.assert_allclose(meant.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ran, wanted, rtol=1e-5, atol=1e-6)
    return [[str(extent) for _, extent in stage.letters] for stage in program.stages]


@pytest.mark.parametrize(("queries", "apart"), [(40, True), (3, False)])
def test_a_mask_is_gathered_once_for_each_key(queries, apart):
    keys = 37
    feeds = {
        "kept": RNG.integers(0, 2, (1, keys)),
        "at": RNG.integers(-keys, keys, (keys,)),
        "rows": RNG.integers(0, 2, (queries, 1)).astype(bool),
        "x": RNG.standard_normal((queries, keys)).astype(np.float32),
    }
    inputs = f"int64[1, {keys}] kept, int64[{keys}] at, bool[{queries}, 1] rows"
    text = f"g ({inputs}, float[{queries}, {keys}] x) => (float[{queries}, {keys}] y) {{{MASK}}}"
    found = stages(text, feeds, low=np.array(-1e30, np.float32))
    whole = [str(queries), str(keys)]
    assert found == ([[str(keys)], whole] if apart else [whole])


def test_gathered_rows_are_not_stored_before_they_are_used():
    feeds = {
        "at": RNG.integers(0, 50, (24,)),
        "x": RNG.standard_normal((24, 32)).astype(np.float32),
    }
    body = " e = Gather(table, at)\n y = Add(e, x)\n"
    text = f"g (int64[24] at, float[24, 32] x) => (float[24, 32] y) {{\n{body}}}"
    table = RNG.standard_normal((50, 32)).astype(np.float32)
    assert stages(text, feeds, table=table) == [["24", "32"]]
