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
from onnx_fusion.program.model import Dot, Load, Reduce, Select, Store

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
        shape = [
            (dims or {})[d.dim_param] if d.dim_param else d.dim_value
            for d in info.type.tensor_type.shape.dim
        ]
        feeds[info.name] = RNG.standard_normal(shape).astype(np.float32)
    plain = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
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
    inputs = ", ".join(f"float{shape} {name}" for shape, name in zip(shapes, "abc", strict=True))
    total = list(shapes[0])
    total[axis] = 6
    stages = lowered(
        build(
            inputs,
            f"float{total} y",
            f"s = Tanh(b)  c0 = Concat <axis = {axis}> (a, s, c)  y = Exp(c0)",
        )
    )
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


def test_parts_of_one_product_are_products():
    """As queries, keys and values have them: nothing is computed twice, or copied."""
    stages = lowered(build(
        "float[2, 5, 8] x", "float[2, 2, 5, 3] q, float[2, 2, 3, 5] k, float[2, 2, 5, 3] v",
        "p = MatMul(x, w)  d = Add(p, b)  s = Constant <value = int64[5] {2, 5, 3, 2, 3}> ()"
        "  e = Reshape(d, s)  t = Transpose <perm = [2, 0, 3, 1, 4]> (e)"
        "  i0 = Constant <value = int64 {0}> ()  i1 = Constant <value = int64 {1}> ()"
        "  i2 = Constant <value = int64 {2}> ()  q0 = Gather(t, i0)  k0 = Gather(t, i1)"
        "  v = Gather(t, i2)  h = Constant <value = float {0.5}> ()  q = Mul(q0, h)"
        "  k = Transpose <perm = [0, 1, 3, 2]> (k0)", w=(8, 18), b=(18,),
    ))  # fmt: skip
    assert len(stages) == 3 and all(count([stage], Dot) == 1 for stage in stages)


def test_parts_of_a_product_that_meet_are_stored_once():
    stages = lowered(build(
        "float[4, 8] x", "float[4, 4] y, float[4, 4] z",
        "p = MatMul(x, w)  o = Constant <value = int64[1] {1}> ()"
        "  zero = Constant <value = int64[1] {0}> ()  two = Constant <value = int64[1] {2}> ()"
        "  four = Constant <value = int64[1] {4}> ()  six = Constant <value = int64[1] {6}> ()"
        "  a = Slice(p, zero, four, o)  b = Slice(p, two, six, o)  y = Exp(a)  z = Tanh(b)",
        w=(8, 6),
    ))  # fmt: skip
    assert count(stages, Dot) == 1


NORM = "n = LayerNormalization <axis = -1> (s, g, b)"


def test_a_normalization_before_a_product_is_one_stage():
    stages = lowered(
        build(
            "float[3, 4, 8] s",
            "float[3, 4, 5] y",
            f"{NORM}  y = MatMul(n, w)",
            g=(8,),
            b=(8,),
            w=(8, 5),
        )
    )
    assert len(stages) == 2 and count(stages[:1], Reduce) == 2 and count(stages, Reduce) == 2


def test_what_is_rolled_is_computed_once():
    """A product with its sum, a normalization, and the roll of it: three stages."""
    stages = lowered(build(
        "float[6, 8] x, float[6, 8] r", "float[6, 8] s, float[6, 8] y",
        "p = MatMul(x, w)  s = Add(p, r)  o = Constant <value = int64[1] {0}> ()"
        "  two = Constant <value = int64[1] {2}> ()  six = Constant <value = int64[1] {6}> ()"
        f"  {NORM}  c = Slice(n, two, six, o)  d = Slice(n, o, two, o)"
        "  e = Concat <axis = 0> (c, d)  f = Constant <value = int64[3] {2, 3, 8}> ()"
        "  h = Reshape(e, f)  t = Transpose <perm = [1, 0, 2]> (h)"
        "  j = Constant <value = int64[2] {6, 8}> ()  y = Reshape(t, j)",
        w=(8, 8), g=(8,), b=(8,),
    ))  # fmt: skip
    assert count(stages, Dot) == 1 and count(stages, Reduce) == 2 and len(stages) == 3


def test_two_products_added_keep_what_follows_the_first():
    stages = lowered(build(
        "float[4, 8] x, float[4, 5] z", "float[4, 6] y",
        "p = MatMul(x, w)  a = Add(p, b)  c = Mul(a, g)  q = MatMul(z, u)  y = Add(q, c)",
        w=(8, 6), b=(6,), g=(6,), u=(5, 6),
    ))  # fmt: skip
    assert len(stages) == 2 and len(stages[1].body) < len(stages[0].body)


def test_a_roll_on_two_axes_is_one_read():
    """Windows of a rolled image, as shifted window attention takes them, and nothing to choose."""
    stages = lowered(build(
        "float[4, 6, 5] x", "float[4, 6, 5] y",
        "o = Constant <value = int64[1] {0}> ()  one = Constant <value = int64[1] {1}> ()"
        "  end = Constant <value = int64[1] {99}> ()  two = Constant <value = int64[1] {2}> ()"
        "  a = Slice(x, one, end, o)  b = Slice(x, o, one, o)  c = Concat <axis = 0> (a, b)"
        "  d = Slice(c, two, end, one)  e = Slice(c, o, two, one)  f = Concat <axis = 1> (d, e)"
        "  s = Constant <value = int64[5] {2, 2, 3, 2, 5}> ()  g = Reshape(f, s)"
        "  t = Transpose <perm = [0, 2, 1, 3, 4]> (g)  h = Constant <value = int64[3] {4, 6, 5}> ()"
        "  i = Reshape(t, h)  y = Exp(i)",
    ))  # fmt: skip
    assert len(stages) == 1 and count(stages, Select) == 0 and count(stages, Load) == 1


@pytest.mark.parametrize("axis, begin, end", [(0, 2, 99), (1, 1, 99), (0, 1, 3), (2, 1, 99)])
def test_what_is_no_roll_is_none(axis, begin, end):
    """The last axis, other sizes, and a gap: pieces of their own, and right."""
    shape = [4, 6, 5]
    shape[axis] = min(end, shape[axis]) - begin + 2
    stages = lowered(build(
        "float[4, 6, 5] x", f"float{shape} y",
        f"k = Constant <value = int64[1] {{{axis}}}> ()  o = Constant <value = int64[1] {{0}}> ()"
        f"  b = Constant <value = int64[1] {{{begin}}}> ()"
        f"  e = Constant <value = int64[1] {{{end}}}> ()"
        "  two = Constant <value = int64[1] {2}> ()  h = Slice(x, b, e, k)  t = Slice(x, o, two, k)"
        f"  c = Concat <axis = {axis}> (h, t)  y = Neg(c)",
    ))  # fmt: skip
    assert len(stages) == 2


def test_a_norm_of_pieces_reads_them_stored():
    stages = lowered(build(
        "float[3, 4] a, float[3, 4] b", "float[3, 8] y",
        "c = Concat <axis = 1> (a, b)  y = LayerNormalization <axis = -1> (c, g, h)",
        g=(8,), h=(8,),
    ))  # fmt: skip
    assert len(stages) == 3 and count(stages, Select) == 0


@pytest.mark.parametrize("begin,end,stages", [(0, 33, 2), (3, 38, 3), (0, 32, 1), (9, 15, 1)])
def test_a_slice_of_what_was_reshaped_is_cut_where_rows_end(begin, end, stages):
    """[N, 10, 8] as [N, 80]: no index is divided by 8."""
    made = lowered(sliced(begin, end), {"N": 4})
    assert len(made) == stages
    indices = [e for s in made for line in s.body if isinstance(line, Load) for e in line.index]
    assert not any("//" in str(e) or "%" in str(e) for e in indices)


def sliced(begin: int, end: int) -> onnx.ModelProto:
    """Exp of a part of rows of 8, read in another order."""
    model = build(
        "float[N, 8, 10] a", f"float[N, {end - begin}] y",
        "t = Transpose <perm = [0, 2, 1]> (a)  r = Reshape(t, shape)"
        "  s = Slice(r, begin, end, axis)  y = Exp(s)",
    )  # fmt: skip
    for name, values in (("shape", [0, 80]), ("begin", [begin]), ("end", [end]), ("axis", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return model


def test_a_product_over_a_concat_reads_it_from_memory() -> None:
    """Its depth is the joined axis, so pieces would be chosen for every element multiplied."""
    model = build(
        "float[1, 8, 5, 6] x, float[1, 8, 5, 6] z", "float[1, 16, 5, 6] y",
        "a = Relu (x)\nb = Neg (z)\nc = Concat <axis = 1> (a, b)\ny = Conv (c, w)",
        w=(16, 16, 1, 1),
    )  # fmt: skip
    for stage in lowered(model):
        kinds = {type(line) for line in stage.body}
        assert not {Dot, Select} <= kinds
