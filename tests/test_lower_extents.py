"""What defines a program's dims where inputs' shapes do not, and what is not computed for extents
alone."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.errors import ProgramError
from onnx_fusion.graph.save import to_proto
from onnx_fusion.program.bind import bind
from onnx_fusion.program.text import parse_program

EXPANDED = """g (float[1, S, 4] x, float[B, S] like) => (float[B, S, 4] y)
<int64[1] four = {4}> {
  shape = Shape(like)
  target = Concat <axis = 0> (shape, four)
  wide = Expand(x, target)
  y = Exp(wide)
}"""
FLAT = """g (float[B, S, 4] x, float[P] flat) => (float[B, S] y)
<int64[2] two = {0, 1}, int64[1] axes = {2}> {
  shape = Shape(x)
  target = Gather(shape, two)
  wide = Reshape(flat, target)
  sums = ReduceSum <keepdims = 0> (x, axes)
  y = Add(wide, sums)
}"""
RANGE = """g (float[B, S] x) => (int64[S] y)
<int64 one = {1}, int64 zero = {0}, int64 three = {3}> {
  shape = Shape(x)
  length = Gather(shape, one)
  count = Range(zero, length, one)
  y = Mul(count, three)
}"""

HEADS = """g (float[N, 50, 64] x) => (float[N, 4, 50, 16] y)
<int64[3] flat = {-1, 50, 16}, int64[1] first = {0}, int64[3] rest = {4, 50, 16},
 int64 axis = {1}> {
  shape = Shape(x)
  batch = Gather(shape, first)
  target = Concat <axis = 0> (batch, rest)
  f = Reshape(x, flat)
  z = CumSum(f, axis)
  heads = Reshape(z, target)
  y = Exp(heads)
}"""


def parsed(text):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')


def session_of(model, library):
    options = onnxruntime.SessionOptions()
    if library:
        options.register_custom_ops_library(onnx_fusion.get_library_path())
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def agree(model, made, feeds):
    """Fail if the models differ, with the library or without it."""
    wanted = session_of(model, False).run(None, feeds)
    for library in (True, False):
        results = session_of(made, library).run(None, feeds)
        for actual, right in zip(results, wanted, strict=True):
            np.testing.assert_allclose(actual, right, rtol=1e-5)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("skip", [(), ("Concat",)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_shape_tensor_defines_what_no_shape_gives(skip, batch):
    """With Concat outside, only the target's contents say how wide Expand makes its input."""
    model = parsed(EXPANDED)
    planned = api.plan_programs(model, policy="all", skip=skip)
    (one,) = [one for one in planned.lowered if "exp" in one.program]
    assert " as (" in one.program
    made = api.optimize(model, policy="all", skip=skip)
    agree(model, made, {"x": random(1, 5, 4), "like": random(batch, 5)})


@pytest.mark.parametrize("length", [1, 6])
def test_a_shape_tensor_that_contradicts_a_shape_is_an_error(length):
    """S is x's second extent, and what the target holds beside B, whichever that is."""
    made = api.optimize(parsed(EXPANDED), policy="all", skip=["Concat"])
    feeds = {"x": random(1, 5, 4), "like": random(3, length)}
    with pytest.raises(Exception, match=rf"holds {length} at 1, but \w+ is 5"):
        session_of(made, True).run(None, feeds)


SPLIT = """g (float[B, S] x, float[1, 2] row) => (float[B, S, 2] y) <
  int64[1] two = {2}, int64[1] one = {1}, int64 zero = {0}, int64[1] front = {0}> {
  e = Exp(x)
  shape = Shape(e)
  length = Gather(shape, zero)
  first = Unsqueeze(length, front)
  second = Slice(shape, one, two)
  single = Concat <axis = 0> (first, second, one)
  tall = Reshape(e, single)
  target = Concat <axis = 0> (first, second, two)
  wide = Expand(tall, target)
  y = Neg(wide)
}"""


def test_a_shape_of_what_a_region_computes_does_not_split_it():
    """The paths by way of Shape leave and come back, but the program has these extents from x."""
    model = parsed(SPLIT)
    planned = api.plan_programs(model, policy="all")
    (one,) = planned.lowered
    assert [n.op_type for n in one.region.nodes] == ["Exp", "Reshape", "Expand", "Neg"]
    assert [value.name for value in one.inputs] == ["x"]
    made = api.optimize(model, policy="all")
    assert len(made.graph.node) == 1
    for batch, length in ((1, 1), (3, 5)):
        agree(model, made, {"x": random(batch, length), "row": random(1, 2)})
    for skip in ("Exp", "Reshape", "Expand", "Concat", "Shape"):
        made = api.optimize(model, policy="all", skip=[skip])
        agree(model, made, {"x": random(3, 5), "row": random(1, 2)})


def test_a_shape_that_no_other_input_has_still_splits():
    """Only the target says how often Expand repeats the row, so the region would wait for
    itself."""
    text = SPLIT.replace("Expand(tall, target)", "Expand(row, target)").replace(
        "Neg(wide)", "Add(wide, tall)"
    )
    model = parsed(text)
    made = api.optimize(model, policy="all")
    agree(model, made, {"x": random(3, 5), "row": random(1, 2)})


def test_rows_that_a_range_numbers():
    model = parsed(RANGE)
    made = api.optimize(model, policy="all")
    assert not any(node.op_type == "Range" for node in made.graph.node)
    for size in (1, 7):
        agree(model, made, {"x": random(2, size)})


def test_a_reshape_whose_extents_are_known_by_name_runs_at_any_size():
    model = parsed(FLAT)
    made = api.optimize(model, policy="all")
    for batch, length in ((1, 1), (2, 3)):
        agree(model, made, {"x": random(batch, length, 4), "flat": random(batch * length)})


def test_a_multiple_gives_the_extent_that_no_input_has():
    """CumSum's result is [4 N, 50, 16], and nothing else says N."""
    model = parsed(HEADS)
    planned = api.plan_programs(model, policy="all", skip=["CumSum"])
    (one,) = [one for one in planned.lowered if "exp" in one.program]
    assert [value.name for value in one.inputs] == ["z"] and "dim D1 = " in one.program
    program = parse_program(one.program)
    assert bind(program, [(12, 50, 16)])["D1"] == 3
    assert bind(program, [(0, 50, 16)])["D1"] == 0
    with pytest.raises(ProgramError, match="positive"):
        bind(program, [(13, 50, 16)])
    made = api.optimize(model, policy="all", skip=["CumSum"])
    assert sorted(node.op_type for node in made.graph.node if not node.domain) == [
        "CumSum",
        "Reshape",
    ]
    for batch in (1, 3):
        agree(model, made, {"x": random(batch, 50, 64)})


def test_an_extent_that_is_decided_keeps_no_convolution():
    """Resize's size is that of c: a constant, for which nothing is computed a second time."""
    model = parsed("""g (float[1, 4, 8, 8] x, float[1, 4, 4, 4] small, float[4, 4, 3, 3] w)
      => (float[1, 4, 8, 8] y) <float[0] none = {}> {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        size = Shape(c)
        up = Resize <mode = "cubic"> (small, none, none, size)
        y = Add(c, up)
      }""")
    planned = api.plan_programs(model, policy="all")
    emitted = api._emit(planned, True)
    made = to_proto(emitted.proto, emitted.weights)
    assert [n.op_type for n in made.graph.node if n.domain == ""] == ["Resize"]
    agree(
        model, made, {"x": random(1, 4, 8, 8), "small": random(1, 4, 4, 4), "w": random(4, 4, 3, 3)}
    )


def test_a_region_that_only_renames_a_shape_is_not_made():
    model = parsed("""g (float[2, 3, 4] x) => (float[6, 4] y) <int64[2] s = {6, 4}> {
      r = Reshape(x, s)
      y = Identity(r)
    }""")
    made = api.plan(model, policy="all")
    assert not made.regions
    moved = parsed(
        "g (float[2, 3, 4] x) => (float[3, 2, 4] y) { y = Transpose <perm = [1, 0, 2]> (x) }"
    )
    assert api.plan(moved, policy="all").regions


def test_bodies_of_an_if_are_planned_though_an_identity_reads_it():
    branch = "{} () => (float[64, 64] {}) {{ {} = Exp(x) {} = Tanh({}) }}"
    then = branch.format("t", "t1", "t0", "t1", "t0")
    other = branch.format("e", "e1", "e0", "e1", "e0")
    model = parsed(f"""g (float[64, 64] x, bool c) => (float[64, 64] y) {{
      i = If (c) <then_branch = {then}, else_branch = {other}>
      y = Identity(i)
    }}""")
    assert len(api.plan(model, policy="all").regions) == 2


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("shape", [(1, 2, 2, 9), (2, 1, 1, 2), (1, 3, 7, 1), (1, 1, 3, 3)])
def test_an_axis_shorter_than_a_pooling_window_has_one_output_as_in_onnx_runtime(pool, shape):
    model = parsed(
        f"g (float[N, C, H, W] x) => (float[N, C, P, Q] y) {{\n"
        f"  wide = Exp(x)\n  y = {pool} <kernel_shape = [3, 2], strides = [3, 2]> (wide)\n}}"
    )
    made = api.optimize(model, policy="all")
    assert [node.domain for node in made.graph.node] == ["onnx_fusion"]
    agree(model, made, {"x": random(*shape)})


DOUBTFUL = """g (float[N, 3, H, W] x, float[N, 3, P, Q] z) => (float[N, 3, R, S] y) {
  a = Abs(x)
  b = Sqrt(a)
  c = Add(b, z)
  y = Tanh(c)
}"""


@pytest.mark.parametrize("library", [True, False])
def test_extents_that_may_broadcast_do_so_where_they_are_1(library):
    original = parsed(DOUBTFUL)
    made = onnx_fusion.optimize(original, policy="all")
    (node,) = made.graph.node
    assert node.domain == "onnx_fusion"
    fused, plain = session_of(made, library), session_of(original, False)
    rng = np.random.default_rng(6)
    for x, z in (
        ((7, 9), (7, 9)), ((1, 9), (7, 9)), ((7, 1), (7, 9)), ((7, 9), (1, 9)), ((7, 9), (1, 1)),
        ((1, 1), (5, 40)), ((1, 40), (5, 1)), ((1, 1), (1, 1)), ((0, 4), (0, 4)), ((0, 4), (1, 1)),
        ((33, 64), (33, 64)), ((2, 1), (1, 70)),
    ):  # fmt: skip
        feeds = {
            "x": rng.standard_normal((2, 3, *x)).astype(np.float32),
            "z": rng.standard_normal((2, 3, *z)).astype(np.float32),
        }
        (want,), (got,) = (one.run(None, feeds) for one in (plain, fused))
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("x, z", [((7, 9), (6, 9)), ((7, 9), (7, 2)), ((2, 3), (3, 2))])
def test_extents_that_do_not_broadcast_are_an_error(x, z):
    fused = session_of(onnx_fusion.optimize(parsed(DOUBTFUL), policy="all"), True)
    feeds = {"x": np.ones((1, 3, *x), np.float32), "z": np.ones((1, 3, *z), np.float32)}
    with pytest.raises(Exception, match="region"):
        fused.run(None, feeds)
