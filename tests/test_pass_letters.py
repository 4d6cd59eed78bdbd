"""Extents of an Einsum whose letters broadcast, against runs of ONNX Runtime."""

import numpy as np
import pytest
from test_pass_infer import agree, inferred, parse

CHAIN = "g (float[N, {a}] x, float[{b}, 3] y) => (float[P, Q] z) {{ {body} }}"


def ones(*shape):
    return np.ones(shape, "f4")


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (2, 2), (1, 1)])
def test_a_letter_of_extent_1_takes_the_other_extent(sizes):
    a, b = sizes
    body = (
        'e = Einsum <equation = "ij,jk->ijk"> (x, y)  z = Einsum <equation = "ijk,jk->ik"> (e, y)'
    )
    graph = inferred(parse(CHAIN.format(a=a, b=b, body=body)))
    assert graph.values["e"].shape == ("N", max(sizes), 3)
    assert graph.values["z"].shape == ("N", 3)
    agree(graph, {"x": ones(5, a), "y": ones(b, 3)})


def test_what_follows_such_a_letter_has_its_extent():
    """Each has the longer extent second, so that onnx is wrong about all of them."""
    ends = ["x", *(f"v{k}" for k in range(11)), "z"]
    steps = [
        f'a{k} = Einsum <equation = "ij,ij->ij"> (one, {before})  {after} = Relu (a{k})'
        for k, (before, after) in enumerate(zip(ends, ends[1:], strict=False))
    ]
    text = "g (float[N, 3] x, float[1, 3] one) => (float[P, Q] z) {" + "\n".join(steps) + "}"
    graph = inferred(parse(text))
    assert graph.values["z"].shape == ("N", 3)
    agree(graph, {"x": ones(4, 3), "one": ones(1, 3)})


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (2, 2)])
def test_unequal_symbols_leave_it_open(sizes):
    body = 'z = Einsum <equation = "ij,ij->ij"> (x, y)'
    graph = inferred(parse("g (float[A, 3] x, float[B, 3] y) => (float[P, Q] z) {" + body + "}"))
    agree(graph, {"x": ones(sizes[0], 3), "y": ones(sizes[1], 3)})


@pytest.mark.parametrize("rows", [1, 4])
def test_an_extent_that_meets_a_known_one_may_still_be_1(rows):
    body = 'r = Relu(x)  z = Einsum <equation = "ij,ik->jik"> (r, y)'
    graph = inferred(parse("g (float[?, 3] x, float[4, 2] y) => (float[] z) {" + body + "}"))
    assert graph.values["z"].shape == (3, 4, 2)
    agree(graph, {"x": ones(rows, 3), "y": ones(4, 2)})
