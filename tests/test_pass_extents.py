"""Extents that must be equal for a model to run at all, against runs of ONNX Runtime."""

import numpy as np
import pytest
from test_pass_infer import agree, inferred, parse


def feeds(batch, length):
    return {"x": np.ones((batch, length, 4), np.float32)}


POSITIONS = """g (float[B, S, 4] x) => (float[B, S, 4] y)
<float[9, 4] table = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}>
{
  shape = Shape(x)
  one = Constant<value = int64[1] {1}>()
  zero = Constant<value = int64[1] {0}>()
  length = Gather(shape, one)
  rows = Slice(table, zero, length, zero)
  s = Add(x, rows)
  y = Relu(s)
}"""


@pytest.mark.parametrize(("batch", "length"), [(1, 9), (3, 2), (2, 1)])
def test_a_cut_that_is_broadcast_against_its_bound_is_as_long(batch, length):
    graph = inferred(parse(POSITIONS))
    assert graph.values["rows"].shape == ("S", 4)
    assert graph.values["y"].shape == ("B", "S", 4)
    agree(graph, feeds(batch, length))


def test_a_cut_of_one_row_may_be_shorter_than_its_bound():
    text = POSITIONS.replace("float[9, 4] table", "float[1, 4] table")
    text = text.replace(
        "{1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}", "{1,2,3,4}"
    )
    graph = inferred(parse(text))
    assert graph.values["rows"].shape[0] != "S"
    agree(graph, feeds(2, 5))


def test_a_cut_that_nothing_else_reads_keeps_an_extent_of_its_own():
    text = POSITIONS.replace("s = Add(x, rows)", "s = Relu(rows)").replace(
        "float[B, S, 4] y", "float[A, 4] y"
    )
    graph = inferred(parse(text))
    assert graph.values["y"].shape[0] != "S"
    agree(graph, feeds(2, 20))


def test_a_range_up_to_an_extent_is_as_long():
    graph = inferred(
        parse("""g (float[B, S, 4] x) => (int64[R] y) {
      shape = Shape(x)
      one = Constant<value = int64 {1}>()
      zero = Constant<value = int64 {0}>()
      length = Gather(shape, one)
      y = Range(zero, length, one)
    }""")
    )
    assert graph.values["y"].shape == ("S",)
    agree(graph, feeds(2, 5))


def test_inner_extents_of_a_product_are_equal():
    graph = inferred(
        parse("""g (float[N, C] x, float[6, 5] w) => (float[N, 5] y) {
      half = Constant<value = int64[2] {0, -1}>()
      cut = Reshape(x, half)
      y = MatMul(cut, w)
    }""")
    )
    assert graph.values["y"].shape == ("N", 5)
    agree(graph, {"x": np.ones((2, 6), np.float32), "w": np.ones((6, 5), np.float32)})


@pytest.mark.parametrize("free", [-1, 7])
def test_a_target_chosen_by_comparing_extents(free):
    """torch writes Where(target == -1, 1, target); an extent is never -1, but it may be 7."""
    text = f"""g (float[1, S, 4] x, float[B, S] like) => (float[B, S, 4] y) {{
      shape = Shape(like)
      four = Constant<value = int64[1] {{4}}>()
      target = Concat<axis = 0>(shape, four)
      free = Constant<value = int64[3] {{{free}, {free}, {free}}}>()
      one = Constant<value = int64[3] {{1, 1, 1}}>()
      same = Equal(target, free)
      chosen = Where(same, one, target)
      y = Expand(x, chosen)
    }}"""
    graph = inferred(parse(text))
    assert (graph.values["y"].shape == ("B", "S", 4)) == (free == -1)
    agree(graph, {"x": np.ones((1, 2, 4), np.float32), "like": np.ones((3, 2), np.float32)})


def test_a_product_divided_by_its_factors():
    """Heads folded into the batch and unfolded again, as torch's MultiheadAttention does."""
    graph = inferred(
        parse("""g (float[6, B, 8] x) => (float[6, C, 8] y) {
      fold = Constant<value = int64[3] {6, -1, 4}>()
      a = Reshape(x, fold)
      b = Transpose<perm = [1, 0, 2]>(a)
      split = Constant<value = int64[4] {-1, 2, 6, 4}>()
      c = Reshape(b, split)
      d = Transpose<perm = [2, 0, 1, 3]>(c)
      back = Constant<value = int64[2] {-1, 8}>()
      e = Reshape(d, back)
      join = Constant<value = int64[3] {6, -1, 8}>()
      y = Reshape(e, join)
    }""")
    )
    assert graph.values["c"].shape == ("B", 2, 6, 4)
    assert graph.values["y"].shape == (6, "B", 8)
    agree(graph, {"x": np.ones((6, 3, 8), np.float32)})


@pytest.mark.parametrize(("end", "whole"), [(10**9, True), (10**6, False), (2**31 - 1, True)])
def test_a_cut_beyond_what_memory_holds_takes_all(end, whole):
    graph = inferred(
        parse(f"""g (float[N, 2048] x) => (float[M, 2048] y) {{
      zero = Constant<value = int64[1] {{0}}>()
      end = Constant<value = int64[1] {{{end}}}>()
      y = Slice(x, zero, end, zero)
    }}""")
    )
    assert (graph.values["y"].shape[0] == "N") == whole


def test_a_cut_at_its_own_extent_takes_all():
    graph = inferred(
        parse("""g (float[N, 4] x) => (float[M, 4] y) {
      zero = Constant<value = int64[1] {0}>()
      shape = Shape(x)
      end = Gather(shape, zero)
      r = Relu(x)
      y = Slice(r, zero, end, zero)
    }""")
    )
    assert graph.values["y"].shape == ("N", 4)
    agree(graph, {"x": np.ones((3, 4), np.float32)})


def test_what_is_concatenated_agrees_on_the_other_axes():
    graph = inferred(
        parse("""g (float[1, 4, H, W] x) => (float[1, C, P, Q] y)
    <float[4, 4, 2, 2] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,
      6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1},
     float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
      half = Conv <strides = [2, 2]> (x, w)
      whole = Resize <mode = "nearest"> (half, , scales)
      same = Abs(x)
      twice = Concat <axis = 1> (whole, same)
      y = Relu(twice)
    }""")
    )
    assert graph.values["whole"].shape[2:] == graph.values["same"].shape[2:] == ("H", "W")
    assert graph.values["y"].shape[2:] == ("H", "W")
    agree(graph, {"x": np.ones((1, 4, 6, 8), np.float32)})


def test_a_product_that_is_one_of_its_factors_is_no_product():
    """Concat says that H * W is W, so H is 1: found after H * W was."""
    graph = inferred(
        parse("""g (float[N, 4, H, W] x) => (float[A, B, P, Q] y)
    <int64[3] flat = {0, 4, -1}, int64[4] line = {0, 4, 1, -1}> {
      half = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
      all = Reshape(half, flat)
      wide = Reshape(all, line)
      both = Concat <axis = 1> (half, wide)
      y = Relu(both)
    }""")
    )
    assert all(dim not in factors for dim, factors in graph.products.items())
    agree(graph, {"x": np.ones((2, 4, 2, 10), np.float32)})


def test_an_extent_of_a_target_that_is_computed_is_what_the_others_leave():
    graph = inferred(
        parse("""g (float[N, 4, 6] x) => (float[A, 6, 2] y)
    <int64[1] first = {0}, int64[1] two = {2}, int64[2] rest = {6, 2}> {
      shape = Shape(x)
      count = Gather(shape, first)
      twice = Mul(count, two)
      target = Concat <axis = 0> (twice, rest)
      y = Reshape(x, target)
    }""")
    )
    dim = graph.values["y"].shape[0]
    assert graph.products[dim] == (2, "N")
    for batch in (0, 1, 3):
        agree(graph, {"x": np.ones((batch, 4, 6), np.float32)})


@pytest.mark.parametrize("policy, known", [("stretch", True), ("not_larger", False)])
def test_a_resize_to_sizes_has_them(policy, known):
    graph = inferred(
        parse(
            f"""g (float[N, 4, H, W] x) => (float[A, B, C, D] y) <float[0] none = {{}}> {{
      half = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
      quarter = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (half)
      sizes = Shape(half)
      y = Resize <mode = "nearest", keep_aspect_ratio_policy = "{policy}">
          (quarter, none, none, sizes)
    }}""",
            opset=18,
        )
    )
    assert (graph.values["y"].shape == graph.values["half"].shape) is known
    agree(graph, {"x": np.ones((2, 4, 8, 12), np.float32)})
