"""A Concat is stored piece by piece: no choice per element, and what computes a piece writes it."""

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
from onnx_fusion.program.model import Dot, Reduce, Select, Store

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
RNG = np.random.default_rng(11)


def build(inputs: str, outputs: str, body: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEAD}g ({inputs}) => ({outputs}) {{\n{body}\n}}")
    for name, shape in weights.items():
        array = RNG.standard_normal(shape).astype(np.float32) / 4
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def lowered(model: onnx.ModelProto, dims: dict[str, int] | None = None):
    """The stages of the model's one region, after the interpreter and the kernels gave what ONNX
    Runtime gives for the original."""
    feeds = {}
    for info in model.graph.input:
        shape = [(dims or {})[d.dim_param] if d.dim_param else d.dim_value
                 for d in info.type.tensor_type.shape.dim]
        feeds[info.name] = RNG.standard_normal(shape).astype(np.float32)
    plain = onnxruntime.InferenceSession(model.SerializeToString(),
                                         providers=["CPUExecutionProvider"])
    wanted = plain.run(None, feeds)
    (one,) = api.plan_programs(model, policy="all").lowered
    program = parse_program(one.program)
    arrays = [feeds[v.name] if v.weight is None else v.weight.array() for v in one.inputs]
    names = [v.name for v in one.outputs]
    meant = dict(zip(names, interpret(program, arrays), strict=True))
    ran = onnx_fusion.session(api.optimize(model, policy="all"), library=True).run(None, feeds)
    for info, expected, kernel in zip(model.graph.output, wanted, ran, strict=True):
        np.testing.assert_allclose(meant[info.name], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5)
    return program.stages


def count(stages, kind) -> int:
    return sum(isinstance(line, kind) for stage in stages for line in stage.body)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_piece_is_a_stage(axis):
    shapes = [[2, 3, 5], [2, 3, 5], [2, 3, 5]]
    for k, shape in enumerate(shapes):
        shape[axis] = k + 1
    inputs = ", ".join(f"float{shape} {name}" for shape, name in zip(shapes, "abc"))
    total = list(shapes[0])
    total[axis] = 6
    stages = lowered(build(inputs, f"float{total} y",
                           f"s = Tanh(b)  c0 = Concat <axis = {axis}> (a, s, c)  y = Exp(c0)"))
    assert len(stages) == 3 and count(stages, Select) == 0 and count(stages, Store) == 3


def test_a_convolution_writes_its_piece():
    stages = lowered(build(
        "float[1, 3, 6, 7] x, float[1, 5, 6, 7] r", "float[1, 9, 6, 7] y",
        "a = Conv <pads = [1, 1, 1, 1]> (x, w)  b = Relu(a)  y = Concat <axis = 1> (b, r)",
        w=(4, 3, 3, 3),
    ))  # fmt: skip
    assert len(stages) == 2 and count(stages, Dot) == 1 and count(stages, Select) == 0


def test_concats_of_concats_on_two_axes():
    stages = lowered(build(
        "float[2, 3] a, float[2, 4] b, float[3, 7] c", "float[5, 7] y",
        "d = Concat <axis = 1> (a, b)  e = Concat <axis = 0> (d, c)  y = Neg(e)",
    ))  # fmt: skip
    assert count(stages, Select) == 0 and 3 <= len(stages) <= 4


def test_a_result_on_the_way_is_stored_in_parts():
    """The Concat is an output too, and so is one of its pieces."""
    stages = lowered(build(
        "float[2, 3] a, float[2, 4] b", "float[2, 7] c, float[2, 3] s, float[2, 7] y",
        "s = Tanh(a)  c = Concat <axis = 1> (s, b)  y = Exp(c)",
    ))  # fmt: skip
    assert len(stages) == 2 and count(stages, Store) == 5


def test_a_piece_used_twice_is_stored_once():
    stages = lowered(build(
        "float[2, 3] a", "float[2, 6] y, float[2, 3] s",
        "s = Tanh(a)  n = Neg(s)  y = Concat <axis = 1> (s, n)",
    ))  # fmt: skip
    assert count(stages, Select) == 0


def test_a_sum_over_the_pieces_is_made_once():
    stages = lowered(build(
        "float[4, 3] a, float[4, 5] b", "float[4, 8] y",
        "c = Concat <axis = 1> (a, b)  y = Softmax <axis = 1> (c)",
    ))  # fmt: skip
    assert len(stages) == 1 and count(stages, Reduce) == 2


def test_a_product_in_two_pieces_is_made_once():
    stages = lowered(build(
        "float[4, 3] a", "float[4, 10] y",
        "b = MatMul(a, w)  c = Neg(b)  y = Concat <axis = 1> (b, c)", w=(3, 5),
    ))  # fmt: skip
    assert count(stages, Dot) == 1


def test_unknown_extents_are_chosen_by_index():
    stages = lowered(build(
        "float[2, N] a, float[2, 4] b", "float[2, M] y",
        "s = Tanh(a)  c = Concat <axis = 1> (s, b)  y = Exp(c)",
    ), {"N": 3})  # fmt: skip
    assert len(stages) == 1 and count(stages, Select) == 1


def test_an_empty_piece():
    stages = lowered(build(
        "float[2, 0] a, float[2, 4] b, float[2, 1] c", "float[2, 5] y",
        "d = Concat <axis = 1> (a, b, c)  y = Exp(d)",
    ))  # fmt: skip
    assert len(stages) == 2


def test_very_many_pieces_stay_one_stage():
    body = f"c = Concat <axis = 1> ({', '.join(['a'] * 70)})  y = Exp(c)"
    assert len(lowered(build("float[2, 1] a", "float[2, 70] y", body))) == 1


def test_a_contraction_that_two_results_need_is_computed_once():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        """g (float[1, 8, 20, 20] x, float[1, 3, 20, 20] other, float[2, 8, 3, 3] w)
           => (float[1, 2, 400] flat, float[1, 5, 20, 20] joined)
        <int64[3] shape = {1, 2, 400}> {
          c = Conv <pads = [1, 1, 1, 1]> (x, w)
          s = Sigmoid(c)
          flat = Reshape(s, shape)
          joined = Concat <axis = 1> (s, other)
        }"""
    )
    (one,) = api.plan_programs(model, policy="all").lowered
    assert one.program.count(" = dot ") == 1


def test_padding_before_a_reshape_needs_no_choice():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        """g (float[1, 30, 1] x, float[4, 1, 1, 5] w) => (float[1, 4, 1, 28] y)
        <int64[6] pads = {0, 1, 0, 0, 1, 0}, int64[4] shape = {1, 1, 1, 32}> {
          p = Pad(x, pads)
          r = Reshape(p, shape)
          y = Conv(r, w)
        }"""
    )
    (one,) = api.plan_programs(model, policy="all").lowered
    assert "select" not in one.program and "else 0" in one.program
