"""Shape arithmetic that reads the graph's inputs: what is rewritten, what is not, and the
results."""

import numpy as np
import pytest
from test_bodies import body_of, kinds, same
from test_pass_infer import parse

import onnx_fusion
from onnx_fusion import api
from onnx_fusion.graph.load import load
from onnx_fusion.passes.pipeline import prepare

HEADS = """g (float[B, S, 8] x) => (float[B, S, 8] y) {
  h = Relu(x)
  shape = Shape(h)
  zero = Constant<value = int64 {0}>()
  one = Constant<value = int64 {1}>()
  at = Constant<value = int64[1] {0}>()
  b = Gather(shape, zero)
  s = Gather(shape, one)
  bs = Unsqueeze(b, at)
  ss = Unsqueeze(s, at)
  n = Constant<value = int64[2] {2, 4}>()
  target = Concat<axis = 0>(bs, ss, n)
  r = Reshape(h, target)
  t = Transpose<perm = [0, 2, 1, 3]>(r)
  e = Exp(t)
  u = Transpose<perm = [0, 2, 1, 3]>(e)
  back = Reshape(u, shape)
  y = Neg(back)
}"""
MASK = """g (float[B, S] x, float[B, 1, S, S] z) => (float[B, 1, S, S] y) {
  axes = Constant<value = int64[2] {1, 2}>()
  m = Neg(x)
  u = Unsqueeze(m, axes)
  s = Shape(u)
  a = Constant<value = int64[1] {0}>()
  d = Constant<value = int64[1] {3}>()
  batch = Gather(s, a)
  length = Gather(s, d)
  one = Constant<value = int64[1] {1}>()
  target = Concat<axis = 0>(batch, one, length, length)
  wide = Expand(u, target)
  e = Relu(wide)
  y = Add(e, z)
}"""
DATA = """g (float[N] x) => (float[K] y) {
  i = NonZero(x)
  f = Cast<to = 1>(i)
  s = Shape(f)
  a = Constant<value = int64[1] {1}>()
  count = Gather(s, a)
  c = Cast<to = 1>(count)
  flat = Reshape(f, count)
  y = Mul(flat, c)
}"""


def operators(text, **options):
    return [node.op_type for node in prepare(load(parse(text)), **options).nodes]


def shapes_read(text):
    return [
        node.inputs[0].name for node in prepare(load(parse(text))).nodes if node.op_type == "Shape"
    ]


def floats(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def test_a_reshape_that_keeps_its_extents_needs_no_arithmetic():
    assert operators(HEADS) == [
        "Relu",
        "Reshape",
        "Transpose",
        "Exp",
        "Transpose",
        "Reshape",
        "Neg",
    ]
    assert "Shape" in operators(HEADS, disabled=["input-shape"])
    made = same(parse(HEADS), [{"x": floats(*s, 8)} for s in ((2, 3), (1, 1), (4, 7))])
    assert kinds(made.graph) == ["FusedRegion"]


def test_an_empty_batch_keeps_its_extent():
    made = api.optimize(parse(HEADS), policy="all")
    for library in (True, False):
        session = onnx_fusion.session(made, library=library)
        assert session.run(None, {"x": floats(0, 3, 8)})[0].shape == (0, 3, 8)


def test_a_target_that_may_have_zeros():
    model = parse(HEADS.replace("Reshape(", "Reshape<allowzero = 1>("), opset=14)
    assert "Shape" not in [node.op_type for node in prepare(load(model)).nodes]
    same(model, [{"x": floats(2, 3, 8)}])


def test_the_shape_of_an_inner_value_is_that_of_an_input():
    assert shapes_read(MASK) == ["x"]
    made = same(
        parse(MASK),
        [{"x": floats(*s), "z": floats(s[0], 1, s[1], s[1])} for s in ((2, 3), (1, 5), (3, 1))],
    )
    assert sum(node.domain == "onnx_fusion" for node in made.graph.node) == 1


@pytest.mark.parametrize("kind", ["Expand", "Concat", "Gather", "Relu", "Neg", "Add", "Unsqueeze"])
def test_what_stays_unfused_reads_the_input_too(kind):
    """Nothing is computed twice: no operator beside the regions that one of them also holds."""
    given = [{"x": floats(2, 3), "z": floats(2, 1, 3, 3)}]
    made = same(parse(MASK), given, skip=[kind])
    left = [node.op_type for node in made.graph.node if node.domain != "onnx_fusion"]
    assert left.count("Neg") == (kind == "Neg") and left.count("Relu") == (kind == "Relu")


def test_extents_that_are_data_stay():
    assert shapes_read(DATA) == ["f"]
    same(parse(DATA), [{"x": np.array(x, np.float32)} for x in ([1, 0, 2], [0, 4], [3, 3])])


def test_an_input_that_a_value_does_not_depend_on_gives_it_no_extent():
    text = MASK.replace("m = Neg(x)", "w = NonZero(x) v = Cast<to = 1>(w) m = Neg(v)")
    assert "x" not in shapes_read(text)


def test_a_shape_that_is_a_result_keeps_its_name():
    text = HEADS.replace("8] y)", "8] y, int64[3] shape)")
    made = same(parse(text), [{"x": floats(2, 3, 8)}])
    assert kinds(made.graph).count("FusedRegion") == 1


def test_in_a_body():
    text = HEADS.replace("g (float[B, S, 8] x) => (float[B, S, 8] y)", "inner () => (y)")
    other = "other () => (k) { k = Abs(x) }"
    model = parse(f"""g (float[B, S, 8] x, bool c) => (float[B, S, 8] out) {{
      out = If(c) <then_branch = {text}, else_branch = {other}>
    }}""")
    made = same(model, [{"x": floats(2, 3, 8), "c": np.array(c)} for c in (True, False)])
    assert kinds(body_of(made, "then_branch")) == ["FusedRegion"]


PARTS = """g (float[N, 4, 6] x) => (float[A, 6, 2] y) {
  a = Constant<value = int64[1] {0}>()
  k = Constant<value = int64[1] {2}>()
  r = Constant<value = int64[2] {6, 2}>()
  h = Relu(x)
  s = Shape(h)
  count = Gather(s, a)
  twice = Mul(count, k)
  target = Concat<axis = 0>(twice, r)
  flat = Reshape(h, target)
  y = Neg(flat)
}"""


def test_one_computed_extent_needs_no_arithmetic():
    assert operators(PARTS) == ["Relu", "Reshape", "Neg"]
    made = same(parse(PARTS), [{"x": floats(b, 4, 6)} for b in (1, 3)])
    assert kinds(made.graph) == ["FusedRegion"]


@pytest.mark.parametrize("rest", ["{0, 2}", "{-1, 2}"])
def test_beside_an_extent_that_is_taken_from_elsewhere_it_does(rest):
    assert "Concat" in operators(PARTS.replace("{6, 2}", rest))
